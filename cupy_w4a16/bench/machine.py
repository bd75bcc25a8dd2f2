"""The GPU under test: that there is one, what it is, and its clock and power while it works."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cupy

from .. import __version__, _device, _env, _nvml
from .._errors import UnsupportedDeviceError
from .._tuned import load_tuned, tuned_path
from . import BenchError, cublas

_SM_CLOCK, _MEMORY_CLOCK = 1, 2  # nvmlClockType_t


@dataclass(frozen=True)
class Sample:
    """A moment: the multiprocessors' clock in MHz, power in W."""

    sm_mhz: int
    power_w: float


def require_gpu(command: str) -> None:
    """`BenchError` unless the current device is a Hopper GPU."""
    try:
        _device.check_hopper(_device.current_device())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BenchError(
            f"{command} needs a Hopper GPU (H100, H200) and its driver; CUDA says: {error}"
        ) from error
    except UnsupportedDeviceError as error:
        raise BenchError(f"{command} needs a Hopper GPU: {error}") from error


def num_sms() -> int:
    """The current GPU's multiprocessors."""
    return _device.num_sms(_device.current_device())


def device_name() -> str:
    """The current GPU's name."""
    return _device.device_name(_device.current_device())


def l2_bytes() -> int:
    """The current GPU's L2 cache."""
    return int(cupy.cuda.Device().attributes["L2CacheSize"])


def facts() -> dict[str, str]:
    """What a table of times has to say about itself, in the order it is printed."""
    versions = _env.versions()
    nvrtc = versions["NVRTC"].split(" (")[0]
    tuned = {problem for problem, _ in load_tuned(device_name(), num_sms())}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "GPU": f"{device_name()}, {num_sms()} SMs, {l2_bytes() / 2**20:.0f} MiB L2",
        "clocks": _clocks(),
        "driver": versions["driver"],
        "versions": f"cupy_w4a16 {__version__}, CuPy {versions['cupy']}, NVRTC {nvrtc}, "
        f"cuBLAS {cublas.version()}, Python {platform.python_version()}",
        "tuned": f"{len(tuned)} products, in {tuned_path()}" if tuned else "nothing, by `tune`",
    }


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Keep NVML open, so that `sample` is quick enough to be called while the GPU works."""
    with _nvml.session():
        try:
            yield
        finally:
            _handle.cache_clear()


def sample() -> Sample | None:
    """Clock and power now; None where NVML can't say. Inside `watched()`."""
    nvml, handle = _nvml.library(), _handle()
    clock, power = ctypes.c_uint(), ctypes.c_uint()
    if nvml is None or handle is None or nvml.nvmlDeviceGetClockInfo(handle, _SM_CLOCK, ctypes.byref(clock)):
        return None
    watts = 0.0 if nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(power)) else power.value / 1000
    return Sample(clock.value, watts)


@cache
def _handle() -> ctypes.c_void_p | None:
    nvml, handle = _nvml.library(), ctypes.c_void_p()
    bus = cupy.cuda.runtime.deviceGetPCIBusId(_device.current_device()).encode()
    if nvml is None or nvml.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)):
        return None
    return handle


def _clocks() -> str:
    with watched():
        nvml, handle = _nvml.library(), _handle()
        if nvml is None or handle is None:
            return "unknown: NVML does not answer"
        words = []
        for name, kind in (("SM", _SM_CLOCK), ("memory", _MEMORY_CLOCK)):
            now, most = ctypes.c_uint(), ctypes.c_uint()
            failed = nvml.nvmlDeviceGetClockInfo(
                handle, kind, ctypes.byref(now)
            ) or nvml.nvmlDeviceGetMaxClockInfo(handle, kind, ctypes.byref(most))
            words.append(f"{name} unknown" if failed else f"{name} {now.value} MHz now, {most.value} at most")
        limit = ctypes.c_uint()
        if not nvml.nvmlDeviceGetEnforcedPowerLimit(handle, ctypes.byref(limit)):
            words.append(f"power limit {limit.value / 1000:.0f} W")
        return "; ".join(words)
