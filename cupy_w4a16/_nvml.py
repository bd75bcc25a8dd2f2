"""Which GPUs this process would get, asked of NVML: a CUDA call would cost forked children the GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: (9, 0) alone: sm_90a code uses instructions that neither earlier nor later GPUs have.
HOPPER = (9, 0)
_UUID_BYTES = 96


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML knows it; `mig_uuids` are those of its MIG instances."""

    name: str
    uuid: str
    capability: tuple[int, int]
    mig_uuids: tuple[str, ...] = ()


def library() -> ctypes.CDLL | None:
    """NVML, or None where no NVIDIA driver is installed."""
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None


def hopper_visible() -> bool:
    """True if a GPU of compute capability 9.0 is among those that `CUDA_VISIBLE_DEVICES` leaves."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return any(gpu.capability == HOPPER for gpu in visible_gpus(gpus(), chosen))


def visible_gpus(present: Sequence[Gpu], chosen: str | None) -> list[Gpu]:
    """The GPUs that CUDA would show for a value of `CUDA_VISIBLE_DEVICES`; None means unset.

    As in CUDA, the first entry that names no GPU (such as -1) ends the list. Numbers count in NVML's
    order, that of the bus; CUDA's default order may differ where GPUs of several kinds are mixed.
    """
    if chosen is None:
        return list(present)
    visible = []
    for word in chosen.split(","):
        gpu = _named(present, word.strip())
        if gpu is None:
            break
        visible.append(gpu)
    return visible


def _named(present: Sequence[Gpu], word: str) -> Gpu | None:
    if word.isdecimal():
        return present[int(word)] if int(word) < len(present) else None
    if word.startswith("MIG-GPU-"):  # the older form: MIG-<UUID of the GPU>/<instance>/<instance>
        word = word.removeprefix("MIG-").partition("/")[0]
    if word.startswith("MIG-"):
        found = [gpu for gpu in present if any(uuid.startswith(word) for uuid in gpu.mig_uuids)]
    else:  # CUDA takes a beginning of the UUID too
        found = [gpu for gpu in present if word.startswith("GPU-") and gpu.uuid.startswith(word)]
    return found[0] if len(found) == 1 else None


def gpus() -> list[Gpu]:
    """Every GPU of the machine (of the container), in bus order; empty where there is no driver."""
    with session() as nvml:
        count = ctypes.c_uint()
        if nvml is None or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        found = (_gpu(nvml, index) for index in range(count.value))
        return [gpu for gpu in found if gpu is not None]


def driver_version() -> str | None:
    """The driver's version, such as "580.65.06"; None where there is no driver."""
    with session() as nvml:
        text = ctypes.create_string_buffer(_UUID_BYTES)
        if nvml is None or nvml.nvmlSystemGetDriverVersion(text, _UUID_BYTES):
            return None
        return text.value.decode()


@contextlib.contextmanager
def session() -> Iterator[ctypes.CDLL | None]:
    """NVML, open; None where no driver is installed, or it does not answer."""
    nvml = library()
    if nvml is None or nvml.nvmlInit_v2():
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: ctypes.CDLL, index: int) -> Gpu | None:
    handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
        return None
    if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)):
        return None
    name = _text(nvml.nvmlDeviceGetName, handle)
    uuid = _text(nvml.nvmlDeviceGetUUID, handle)
    return Gpu(name, uuid, (major.value, minor.value), tuple(_mig_uuids(nvml, handle)))


def _mig_uuids(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> Iterator[str]:
    current, pending, most = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    if nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(current), ctypes.byref(pending)) or not current.value:
        return
    if nvml.nvmlDeviceGetMaxMigDeviceCount(handle, ctypes.byref(most)):
        return
    for index in range(most.value):
        instance = ctypes.c_void_p()
        if nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index, ctypes.byref(instance)) == 0:
            yield _text(nvml.nvmlDeviceGetUUID, instance)


def _text(get: ctypes._NamedFuncPointer, handle: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(_UUID_BYTES)
    return "" if get(handle, text, _UUID_BYTES) else text.value.decode()
