"""Launch: a kernel and checked arguments become a parameter block, a grid, and one driver call."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cupy

from . import _cache, _driver
from ._config import BLOCK_BYTES, BLOCK_K, BLOCK_N, GemmConfig, GemmProblem
from ._kernels import Kernel, kernel_for, unit_for

if TYPE_CHECKING:
    from ._checks import GemmArguments

_ALIGN = 16  # of addresses and strides that the copy engine takes
_ONE_GROUP_SHIFT = 31  # k >> 31 is group 0 for every k


class Params(ctypes.Structure):
    """`Params` of kernels_src/params.cuh, field for field."""

    _fields_ = [
        ("a_map", ctypes.c_uint64 * 16),
        ("out_map", ctypes.c_uint64 * 16),
        ("b_packed", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("b_row_bytes", ctypes.c_int64),
        ("scales_stride", ctypes.c_int64),
        ("zeros_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("m", ctypes.c_int32),
        ("n", ctypes.c_int32),
        ("k", ctypes.c_int32),
        ("num_groups", ctypes.c_int32),
        ("group_shift", ctypes.c_int32),
        ("alpha", ctypes.c_float),
        ("bulk_groups", ctypes.c_int32),
        ("tma_store", ctypes.c_int32),
        ("padding", ctypes.c_char * 24),
    ]


assert ctypes.sizeof(Params) % _driver.TENSOR_MAP_ALIGNMENT == 0


@dataclass(frozen=True)
class LoadedKernel:
    """A kernel of one device, ready to launch."""

    function: int  # CUfunction
    module: Any  # keeps the function alive
    num_sms: int
    registers: int
    local_bytes: int


@lru_cache(maxsize=1024)
def load(kernel: Kernel, device: int) -> LoadedKernel:
    """The kernel loaded on `device`, compiled first where the cache lacks it."""
    module = cupy.RawModule(path=str(_cache.load_or_compile(unit_for(kernel))))
    function = module.get_function(kernel.name)
    function.max_dynamic_shared_size_bytes = kernel.smem_bytes
    properties = cupy.cuda.Device(device).attributes
    return LoadedKernel(
        function.kernel.ptr, function, properties["MultiProcessorCount"], function.num_regs, function.local_size_bytes
    )


def _aligned_params() -> tuple[Params, Any]:
    """A zeroed block at an address a tensor map may have, and what keeps it alive."""
    buffer = ctypes.create_string_buffer(ctypes.sizeof(Params) + _driver.TENSOR_MAP_ALIGNMENT)
    offset = -ctypes.addressof(buffer) % _driver.TENSOR_MAP_ALIGNMENT
    return Params.from_buffer(buffer, offset), buffer


def grid_size(config: GemmConfig, problem: GemmProblem, num_sms: int) -> int:
    """CTAs to launch: with k split, a cluster for every tile; else as many as run at once, fewer if tiles are fewer."""
    tiles_n = -(-problem.n // (config.tile_n * config.cluster_n))
    tiles_m = -(-problem.m // (config.tile_m * config.cluster_m))
    tiles = tiles_n * tiles_m
    if config.splits == 1:
        tiles = min(tiles, max(num_sms * config.ctas_per_sm // config.cluster_size, 1))
    return tiles * config.cluster_size


def run(arguments: GemmArguments, config: GemmConfig, out: Any) -> None:
    """Launches one product on the current stream; the result goes to `out`, which is m x n for this module."""
    problem = arguments.problem
    kernel = kernel_for(config, problem, arguments.activation)
    loaded = load(kernel, arguments.b_packed.data.device_id)
    a, a_row_bytes = _readable(arguments)
    params, _keep = _aligned_params()
    _fill(params, arguments, config, a, a_row_bytes, out)
    launch = _driver.LaunchConfig()
    launch.grid[:] = (grid_size(config, problem, loaded.num_sms), 1, 1)
    launch.block[:] = (kernel.threads, 1, 1)
    launch.smem_bytes = kernel.smem_bytes
    if config.cluster_size > 1:
        attributes = (_driver.LaunchAttribute * 1)(_driver.cluster_attribute(config.cluster_size))
        launch.attributes, launch.num_attributes = attributes, 1
    launch.stream = cupy.cuda.get_current_stream().ptr
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(params))
    _driver.launch(loaded.function, launch, pointers, kernel.name)


def _readable(arguments: GemmArguments) -> tuple[Any, int]:
    """`a` as TMA reads it: in place, or a copy whose rows are multiples of 16 bytes."""
    if arguments.a_in_place:
        return arguments.a, arguments.a_row_bytes
    problem = arguments.problem
    columns = arguments.a_row_bytes // arguments.a.dtype.itemsize
    copy = cupy.empty((problem.m, columns), arguments.a.dtype)
    copy[:, : problem.k] = arguments.a.reshape(problem.m, problem.k)
    return copy, arguments.a_row_bytes


def _fill(
    params: Params, arguments: GemmArguments, config: GemmConfig, a: Any, a_row_bytes: int, out: Any
) -> None:
    problem = arguments.problem
    scales, zeros, bias = arguments.scales, arguments.zeros, arguments.bias
    base = ctypes.addressof(params)
    if problem.k:
        _driver.encode_tensor_map(
            base + Params.a_map.offset,
            a.data.ptr,
            problem.dtype,
            (problem.m, problem.k),
            a_row_bytes,
            (config.tile_m // config.cluster_n, BLOCK_K // 2),
        )
    out_row_bytes = arguments.out_row_bytes
    params.tma_store = _is_aligned(out.data.ptr, out_row_bytes)
    if params.tma_store and config.store_tokens:
        itemsize = out.dtype.itemsize
        _driver.encode_tensor_map(
            base + Params.out_map.offset,
            out.data.ptr,
            problem.out_dtype,
            (problem.m, problem.n),
            out_row_bytes,
            (config.store_tokens, 128 // itemsize),
        )
    params.b_packed = arguments.b_packed.data.ptr
    params.scales = scales.data.ptr
    params.zeros = zeros.data.ptr if zeros is not None else None
    params.bias = bias.data.ptr if bias is not None else None
    params.out = out.data.ptr
    params.b_row_bytes = arguments.b_row_bytes
    params.scales_stride = arguments.scales_row_bytes // scales.dtype.itemsize
    params.zeros_stride = arguments.zeros_row_bytes // zeros.dtype.itemsize if zeros is not None else 0
    params.out_stride = out_row_bytes // out.dtype.itemsize
    params.m, params.n, params.k = problem.m, problem.n, problem.k
    params.num_groups = scales.shape[0]
    params.group_shift = _ONE_GROUP_SHIFT if problem.group_size < 0 else problem.group_size.bit_length() - 1
    params.alpha = arguments.alpha
    # A bulk copy brings 16 bytes or a multiple: also the last, partial tile's row must be one.
    params.bulk_groups = _rows_bulk(scales, arguments.scales_row_bytes, problem.n) and (
        zeros is None or _rows_bulk(zeros, arguments.zeros_row_bytes, problem.n)
    )


def _is_aligned(address: int, row_bytes: int) -> bool:
    return not (address | row_bytes) % _ALIGN


def _rows_bulk(x: Any, row_bytes: int, n: int) -> bool:
    """Whether every row of `x`, or a part of it from a multiple of 64 columns on, is made of whole 16 bytes."""
    rows_aligned = _is_aligned(x.data.ptr, row_bytes) or (x.shape[0] == 1 and not x.data.ptr % _ALIGN)
    return rows_aligned and not n * x.dtype.itemsize % _ALIGN


assert BLOCK_BYTES == BLOCK_N * BLOCK_K // 2
