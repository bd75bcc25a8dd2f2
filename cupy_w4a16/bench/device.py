"""The benchmark's own kernels (kernels.cu): random fills, plain weights, comparison, cold read, rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from .. import _cache
from .._device import current_device, num_sms
from .._key import Unit

THREADS = 256
TILE = 64  # rows and columns that one block compares
READ_LOADS = (4, 8, 16)  # 16-byte loads of a thread in flight: which is fastest depends on the size
LOW_NIBBLES = 0x0F0F0F0F


def unit() -> Unit:
    """kernels.cu as it is on disk."""
    return Unit("bench", Path(__file__).with_name("kernels.cu").read_text())


def fill_words(out: Any, seed: int, mask: int = 0xFFFFFFFF) -> None:
    """Random bits, those of `mask` only, in an array of whole 4-byte words."""
    _over(
        out.nbytes // 4, "bench_fill_words", out, np.int64(out.nbytes // 4), np.uint64(seed), np.uint32(mask)
    )


def fill_normal(out: Any, seed: int) -> None:
    """Gaussian numbers of variance 1 in a float16 or bfloat16 array."""
    _over(out.size, f"bench_fill_normal_{out.dtype.name}", out, np.int64(out.size), np.uint64(seed))


def fill_uniform(out: Any, seed: int, low: float, high: float, both_signs: bool = False) -> None:
    """Numbers of magnitude `low` to `high` in a float16 or bfloat16 array."""
    limits = np.float32(low), np.float32(high), np.int32(both_signs)
    _over(out.size, f"bench_fill_uniform_{out.dtype.name}", out, np.int64(out.size), np.uint64(seed), *limits)


def dequantize_into(out: Any, b_packed: Any, scales: Any, zeros: Any, group_size: int) -> None:
    """Weights (k, n) into `out`: float32, or the dtype of `scales`, of any strides."""
    k, n = out.shape
    name = f"bench_dequantize_{scales.dtype.name}" + ("_to_float" if out.dtype == np.float32 else "")
    float_zeros = zeros is not None and zeros.dtype == scales.dtype
    strides = (np.int64(stride // out.dtype.itemsize) for stride in out.strides)
    _over(
        b_packed.size, name, b_packed, scales, _address(zeros), np.int32(float_zeros),
        np.int32(n), np.int32(k), np.int32(k if group_size == -1 else group_size), out, *strides,
    )  # fmt: skip


def worst_tile_error(c: Any, expected: Any) -> float:
    """The largest root mean square error of a 64 x 64 tile of `c (m, n)`, over the largest size of a tile.

    `expected` is float32. One lost row of k = 28672 gives 6e-3 where it hits, however large the matrix. NaN
    where `c` has one.
    """
    m, n = c.shape
    result = cupy.empty(2, np.uint32)
    result.data.memset_async(0, result.nbytes)
    grid = (-(-n // TILE), -(-m // TILE))
    function = _function(f"bench_compare_{c.dtype.name}", current_device())
    function(grid, (THREADS,), (c, expected, np.int32(m), np.int32(n), result))
    error, size = result.get().view(np.float32).tolist()
    return float(np.sqrt(error / size)) if size else float(np.sqrt(error))


def rest(ms: float) -> None:
    """Let the current stream wait on the GPU, while the host goes on to queue what follows."""
    _function("bench_rest", current_device())((1,), (1,), (np.uint64(round(1e6 * ms)),))


@dataclass(frozen=True)
class Reader:
    """One way to read arrays: loads in flight, and blocks an SM (None: as many as it takes, once over)."""

    loads: int
    blocks_per_sm: int | None

    def __call__(self, first: Any, second: Any, sink: Any) -> None:
        counts = first.nbytes // 16, second.nbytes // 16
        blocks = -(-sum(counts) // (THREADS * self.loads))
        if self.blocks_per_sm is not None:
            blocks = min(blocks, self.blocks_per_sm * num_sms(current_device()))
        function = _function(f"bench_read_{self.loads}", current_device())
        function((blocks,), (THREADS,), (first, np.int64(counts[0]), second, np.int64(counts[1]), sink))


READERS = tuple(Reader(loads, blocks) for loads in READ_LOADS for blocks in (None, 64 // loads))


def _address(x: Any) -> Any:
    return np.uint64(0) if x is None else x


@cache
def _module(device: int) -> Any:
    return cupy.RawModule(path=str(_cache.load_or_compile(unit())))


@cache
def _function(name: str, device: int) -> Any:
    return _module(device).get_function(name)


def _over(count: int, name: str, *arguments: Any) -> None:
    blocks = min(-(-count // THREADS), 32 * num_sms(current_device()))
    if blocks:
        _function(name, current_device())((blocks,), (THREADS,), arguments)
