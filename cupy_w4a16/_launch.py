"""Launch: a checked product and the addresses of its arrays become one prepared call of the driver.

    Plan      what shapes, dtypes and options settle: kernel, grid, tensor maps but for addresses
    Launch    a plan's parameter block with addresses and stream filled in
    launch()  a call

A `Launch` is never written after it is made, so threads may share it, and nothing in it depends on more than
its plan, addresses and stream: one found again by these is right, whatever became of the memory meanwhile.
The plan's normalised scales, of which no key speaks, it keeps alive.
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import TYPE_CHECKING, Any

import cupy

from . import _driver
from ._check_quantized import ALIGN_BYTES
from ._config import GemmConfig, GemmProblem
from ._kernels import kernel_for
from ._load import LoadedKernel, load
from ._pack import BLOCK_K
from ._smem import stage_groups

if TYPE_CHECKING:
    from ._checks import GemmArguments
    from ._normalised import Normalised

#: Kernels count rows, columns and k in 32 bits, and tiles reach past the end; addresses have 64.
SIZE_MAX = 2**31 - 1024
_ONE_GROUP_SHIFT = 31  # k >> 31 is group 0 for every k


class Params(ctypes.Structure):
    """`Params` of kernels_src/params.cuh, field for field."""

    _fields_ = [
        ("a_map", ctypes.c_uint64 * 16),
        ("a_tail_map", ctypes.c_uint64 * 16),
        ("out_map", ctypes.c_uint64 * 16),
        ("scales_map", ctypes.c_uint64 * 16),
        ("zeros_map", ctypes.c_uint64 * 16),
        ("a", ctypes.c_void_p),
        ("b_packed", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("zeros", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("normalised_by", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("a_row_bytes", ctypes.c_int64),
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
        ("aligned_groups", ctypes.c_int32),
        ("out_aligned", ctypes.c_int32),
    ]


class _Block(ctypes.Structure):
    """What one launch points at, in one piece of memory: tensor maps first, where they must be aligned."""

    _fields_ = [
        ("params", Params),
        ("config", _driver.LaunchConfig),
        ("attributes", _driver.LaunchAttribute * 2),
        ("parameters", ctypes.c_void_p * 1),
    ]


_BLOCK_BYTES = ctypes.sizeof(_Block)
_Memory = ctypes.c_char * (_BLOCK_BYTES + _driver.TENSOR_MAP_ALIGNMENT)
_A_MAP, _A_TAIL_MAP, _OUT_MAP = Params.a_map.offset, Params.a_tail_map.offset, Params.out_map.offset
_SCALES_MAP, _ZEROS_MAP = Params.scales_map.offset, Params.zeros_map.offset
_CONFIG, _ATTRIBUTES = _Block.config.offset, _Block.attributes.offset
_PARAMETERS = _Block.parameters.offset
assert _Block.params.offset == 0
assert ctypes.sizeof(Params) % _driver.TENSOR_MAP_ALIGNMENT == 0


class Launch(partial[int]):
    """A prepared launch: calling it returns the driver's status. `Launch(int)` does nothing, status 0."""

    kernel: LoadedKernel  # kept alive, and so are
    normalised: Normalised | None


class Plan:
    """One product but for the addresses of its arrays and the stream; `a` is one that is read in place.

    With `normalised` scales, those are read instead of the ones that `prepare` is given.

    A plan is equal to itself only, so that in a key it can stand for all it was made from.
    """

    def __init__(
        self,
        arguments: GemmArguments,
        config: GemmConfig,
        device: int,
        pdl: bool,
        normalised: Normalised | None = None,
    ) -> None:
        if normalised is not None:
            row_bytes = normalised.scales.strides[0]
            arguments = arguments._replace(scales=normalised.scales, scales_row_bytes=row_bytes)
        self._normalised = normalised
        problem, scales, zeros = arguments.problem, arguments.scales, arguments.zeros
        self.layout = arguments.layout
        self.out_shape = (*arguments.lead_shape, problem.n)
        self.out_dtype = arguments.out_dtype
        self.kernel: LoadedKernel | None = None
        if not (problem.m and problem.n):
            return
        for name in ("m", "n", "k"):
            if (size := getattr(problem, name)) > SIZE_MAX:
                raise ValueError(f"{name} is {size}: at most {SIZE_MAX}; cut the product into several")
        self.kernel = load(kernel_for(config, problem, arguments.activation, normalised is not None), device)
        self._launch = _driver.library().cuLaunchKernelEx
        self._function = ctypes.c_void_p.from_param(self.kernel.function)
        self._a_map = self._a_tail_map = self._out_map = None
        if problem.k and config.family == "wgmma":
            tail = problem.m % config.tile_m if config.cluster_n == 1 else 0
            if problem.m > tail:
                self._a_map = _a_map(config.tile_m // config.cluster_n, arguments)
            if tail:
                self._a_tail_map = _a_map(tail, arguments)
        # The copy engine stores 16 bytes at a time, past the last column too.
        row_bytes = problem.n * arguments.out_dtype.itemsize
        self._out_aligned = not (row_bytes | arguments.out_row_bytes) % ALIGN_BYTES
        if config.store_tokens and self._out_aligned:
            box = (config.store_tokens, 128 // arguments.out_dtype.itemsize)
            shape = (problem.m, problem.n)
            self._out_map = _driver.MatrixMap(problem.out_dtype, shape, arguments.out_row_bytes, box)
        self._aligned_groups = _rows_aligned(scales, arguments.scales_row_bytes) and (
            zeros is None or _rows_aligned(zeros, arguments.zeros_row_bytes)
        )
        self._scales_map = self._zeros_map = None
        if self._aligned_groups and problem.k and config.family == "wgmma":
            self._scales_map = _group_map(scales, arguments.scales_row_bytes, config, problem)
            if zeros is not None:
                self._zeros_map = _group_map(zeros, arguments.zeros_row_bytes, config, problem)
        self._template = bytes(_block(arguments, config, self.kernel, pdl))

    def prepare(
        self, a: Any, b_packed: Any, scales: Any, zeros: Any, bias: Any, out: Any, stream: int
    ) -> Launch:
        """The launch for these arrays, of shapes, strides and dtypes as the plan's, on this stream."""
        if self.kernel is None:
            return Launch(int)
        memory = _Memory()
        start = ctypes.addressof(memory)
        offset = -start % _driver.TENSOR_MAP_ALIGNMENT
        start += offset
        ctypes.memmove(start, self._template, _BLOCK_BYTES)
        block = _Block.from_buffer(memory, offset)  # keeps the memory alive; references to it keep the block
        params, config = block.params, block.config
        if self._normalised is not None:
            scales, by = self._normalised
            params.normalised_by = by.data.ptr
        scales_at, out_at = scales.data.ptr, out.data.ptr
        zeros_at = 0 if zeros is None else zeros.data.ptr
        params.a = a.data.ptr
        params.b_packed, params.scales, params.zeros = b_packed.data.ptr, scales_at, zeros_at
        params.bias, params.out = 0 if bias is None else bias.data.ptr, out_at
        if self._a_map:
            self._a_map.write(ctypes.byref(block, _A_MAP), a.data.ptr)
        if self._a_tail_map:
            self._a_tail_map.write(ctypes.byref(block, _A_TAIL_MAP), a.data.ptr)
        if self._out_aligned and not out_at % ALIGN_BYTES:
            params.out_aligned = 1
            if self._out_map:
                self._out_map.write(ctypes.byref(block, _OUT_MAP), out_at)
        if self._aligned_groups and not (scales_at | zeros_at) % ALIGN_BYTES:
            params.aligned_groups = 1
            if self._scales_map:
                self._scales_map.write(ctypes.byref(block, _SCALES_MAP), scales_at)
            if self._zeros_map:
                self._zeros_map.write(ctypes.byref(block, _ZEROS_MAP), zeros_at)
        config.stream = stream
        config.attributes = start + _ATTRIBUTES
        block.parameters[0] = start
        config_at, parameters_at = ctypes.byref(block, _CONFIG), ctypes.byref(block, _PARAMETERS)
        launch = Launch(self._launch, config_at, self._function, parameters_at, None)
        launch.kernel, launch.normalised = self.kernel, self._normalised
        return launch


def finish(launch: Launch, status: int) -> None:
    """What follows a `status` other than 0: another try where only a context was missing, else W4A16Error.

    A thread that has made no CUDA call yet has no current context. CuPy's calls mend that unseen; so do we.
    """
    if status == _driver.INVALID_CONTEXT:
        cupy.cuda.runtime.setDevice(cupy.cuda.runtime.getDevice())
        status = launch()
    _driver.check(status, f"launching {launch.kernel.name}")


def grid_size(config: GemmConfig, problem: GemmProblem, max_clusters: int) -> int:
    """CTAs to launch, in whole clusters: as many as the GPU holds at once, fewer where there are fewer tiles.

    With k split, and in the mma family, each tile has a cluster, or a CTA, of its own.
    """
    tiles = config.clusters(problem)
    one_tile_each = config.family == "mma" or config.splits > 1
    return (tiles if one_tile_each else min(tiles, max_clusters)) * config.cluster_size


def _block(arguments: GemmArguments, config: GemmConfig, kernel: LoadedKernel, pdl: bool) -> _Block:
    """A block with all but addresses and the stream."""
    problem, scales, zeros = arguments.problem, arguments.scales, arguments.zeros
    block = _Block()
    params, launch = block.params, block.config
    params.a_row_bytes = arguments.a_row_bytes
    params.b_row_bytes = arguments.b_row_bytes
    params.scales_stride = arguments.scales_row_bytes // scales.dtype.itemsize
    params.zeros_stride = 0 if zeros is None else arguments.zeros_row_bytes // zeros.dtype.itemsize
    params.out_stride = arguments.out_row_bytes // arguments.out_dtype.itemsize
    params.m, params.n, params.k = problem.m, problem.n, problem.k
    params.num_groups = scales.shape[0]
    one_group = problem.group_size < 0
    params.group_shift = _ONE_GROUP_SHIFT if one_group else problem.group_size.bit_length() - 1
    params.alpha = arguments.alpha
    launch.grid[:] = (grid_size(config, problem, kernel.max_clusters), 1, 1)
    launch.block[:] = (kernel.threads, 1, 1)
    launch.smem_bytes = kernel.smem_bytes
    attributes = [_driver.cluster_attribute(kernel.cluster_size)] if kernel.cluster_size > 1 else []
    attributes += [_driver.dependent_attribute()] if pdl else []
    block.attributes[: len(attributes)] = attributes
    launch.num_attributes = len(attributes)
    return block


def _rows_aligned(x: Any, row_bytes: int) -> bool:
    """Whether rows of `x` are whole 16 bytes, from the first to the last column's."""
    rows, n = x.shape
    return (not row_bytes % ALIGN_BYTES or rows == 1) and not n * x.dtype.itemsize % ALIGN_BYTES


def _a_map(tokens: int, arguments: GemmArguments) -> _driver.MatrixMap:
    """The map of `a` for boxes of so many tokens and half a stage's k."""
    problem = arguments.problem
    box = (tokens, BLOCK_K // 2)
    return _driver.MatrixMap(problem.dtype, (problem.m, problem.k), arguments.a_row_bytes, box)


def _group_map(x: Any, row_bytes: int, config: GemmConfig, problem: GemmProblem) -> _driver.MatrixMap:
    """The map of scales or zeros; a box is what one stage needs for one tile's columns."""
    rows, n = x.shape
    step = row_bytes if rows > 1 else n * x.dtype.itemsize
    box = (stage_groups(problem), config.stage_n)
    return _driver.MatrixMap(x.dtype.name, (rows, n), step, box, swizzled=False)
