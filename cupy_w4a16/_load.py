"""Kernels on a GPU: loaded once each, with what the driver says of them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cupy

from . import _cache, _driver
from ._device import num_sms
from ._errors import W4A16Error
from ._kernels import Kernel, unit_for

#: cudaErrorStreamCaptureImplicit: another stream, for which this one would wait, is being captured.
_CAPTURE_IMPLICIT = 906


@dataclass(frozen=True, eq=False)
class LoadedKernel:
    """A kernel on one device, ready to launch."""

    name: str
    function: int  # CUfunction
    module: Any  # keeps the function alive
    threads: int
    smem_bytes: int
    cluster_size: int
    max_clusters: int  # clusters, of one CTA too, that the GPU holds at once


@lru_cache(maxsize=1024)
def load(kernel: Kernel, device: int) -> LoadedKernel:
    """The kernel loaded on `device`, the current one; compiled first where the cache lacks it.

    W4A16Error during graph capture: neither compiling nor loading belongs there.
    """
    if is_capturing():
        raise W4A16Error(
            f"kernel {kernel.name} is not loaded yet, and a CUDA graph is being captured: warm up before the "
            "capture, by one call (gemm(...) or linear(...)) with the same shapes, dtypes and options, which "
            "compiles and loads the kernel"
        )
    module = cupy.RawModule(path=str(_cache.load_or_compile(unit_for(kernel))))
    function = module.get_function(kernel.name)
    function.max_dynamic_shared_size_bytes = kernel.smem_bytes
    pointer = int(function.kernel.ptr)
    return LoadedKernel(
        kernel.name,
        pointer,
        module,
        kernel.threads,
        kernel.smem_bytes,
        kernel.config.cluster_size,
        _max_clusters(pointer, kernel, device),
    )


def is_capturing() -> bool:
    """Whether the current stream, or one that it would wait for, is being captured into a CUDA graph."""
    try:
        return bool(cupy.cuda.get_current_stream().is_capturing())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if error.status == _CAPTURE_IMPLICIT:
            return True
        raise


def _max_clusters(function: int, kernel: Kernel, device: int) -> int:
    size = kernel.config.cluster_size
    if size == 1:
        return num_sms(device) * kernel.config.ctas_per_sm
    config = _driver.LaunchConfig()
    config.grid[:] = (size, 1, 1)
    config.block[:] = (kernel.threads, 1, 1)
    config.smem_bytes = kernel.smem_bytes
    attribute = _driver.cluster_attribute(size)
    config.attributes, config.num_attributes = ctypes.addressof(attribute), 1
    return max(1, _driver.max_active_clusters(function, config))
