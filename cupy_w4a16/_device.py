"""The GPU the arrays are on: it must be the current one, and a Hopper to run the kernels; what it is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import cupy

from ._errors import UnsupportedDeviceError
from ._nvml import HOPPER
from ._scalars import as_int

#: Devices found to be Hopper; at most as many entries as the machine has GPUs.
_hopper_devices: set[int] = set()


def current_device() -> int:
    """The number of the current GPU."""
    return int(cupy.cuda.runtime.getDevice())


def count_devices() -> int:
    """How many GPUs there are; UnsupportedDeviceError with CUDA's reason where it can use none."""
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnsupportedDeviceError(f"no CUDA GPU can be used: {error}") from error


def device_name(device: int) -> str:
    """A GPU's name, "NVIDIA H100 80GB HBM3" for one."""
    return str(cupy.cuda.runtime.getDeviceProperties(device)["name"].decode())


@cache
def num_sms(device: int) -> int:
    """Multiprocessors of a GPU."""
    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])


def check_current_device(current: int, arrays: Mapping[str, Any]) -> None:
    """ValueError naming the arrays that are not on GPU `current` (None stands for an argument left out)."""
    for name, x in arrays.items():
        if x is not None and x.data.device_id != current:
            found = x.data.device_id
            raise ValueError(
                f"{name} is on GPU {found}, but the current device is GPU {current}: all arrays must be on "
                f"the current device; call inside `with cupy.cuda.Device({found}):`, or copy the array with "
                f"cupy.asarray({name})"
            )


def checked_device(device: Any, count: int) -> int:
    """The argument `device` as an int; TypeError, ValueError unless it numbers one of `count` GPUs."""
    number = as_int("device", device)
    if not 0 <= number < count:
        raise ValueError(
            f"device is {number}: this machine's GPUs go from 0 to {count - 1}; pass one of these"
        )
    return number


def has_hopper() -> bool:
    """Whether the current GPU, if there is one, runs the kernels."""
    if not cupy.cuda.is_available():
        return False
    try:
        check_hopper(current_device())
    except UnsupportedDeviceError:
        return False
    return True


def check_hopper(device: int) -> None:
    """UnsupportedDeviceError where GPU `device` cannot run sm_90a code; the driver is asked once per GPU."""
    if device in _hopper_devices:
        return
    properties = cupy.cuda.runtime.getDeviceProperties(device)
    capability = int(properties["major"]), int(properties["minor"])
    if capability != HOPPER:
        raise UnsupportedDeviceError(
            f"GPU {device} is a {device_name(device)} of compute capability "
            f"{capability[0]}.{capability[1]}; the kernels are sm_90a code, which runs on Hopper alone "
            "(compute capability 9.0: H100, H200, H20, GH200), not on earlier or later GPUs. Select a "
            "Hopper GPU with cupy.cuda.Device, or pass NumPy arrays (cupy.asnumpy), which work on any "
            "machine"
        )
    _hopper_devices.add(device)
