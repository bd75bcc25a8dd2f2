"""Random weights of one shape, several sets of them, so that each call finds its own cold in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cupy
import numpy as np

from .. import _dtypes
from .._config import GemmProblem
from .._group_size import group_rows
from .._pack import packed_shape
from .._quantize import dequantize
from . import BenchError, device, machine
from .shapes import rotation

# Uniform codes and scales of this magnitude / sqrt(k) give results of variance 1 on Gaussian activations.
SCALE_LOW, SCALE_HIGH = 0.1, 0.3
_ALIGN = 256


@dataclass(frozen=True)
class PackedSet:
    """One weight as `gemm` takes it; `side` is the memory that scales and zeros share."""

    b_packed: Any
    scales: Any
    zeros: Any
    side: Any

    @property
    def nbytes(self) -> int:
        return int(self.b_packed.nbytes + self.side.nbytes)


class Weights:
    """What the points of one shape share: packed sets, activations of the most tokens, the expected result.

    `problem.m` is the largest number of tokens that will be asked for.
    """

    def __init__(self, problem: GemmProblem, *, seed: int = 0, expect: bool = True) -> None:
        check_dequantize(replace(problem, m=1, n=128, k=256, out_dtype=problem.dtype))
        self.problem = problem
        first = random_set(problem, seed)
        count = rotation(first.nbytes, machine.l2_bytes())
        self.sets = [first, *(random_set(problem, seed + i) for i in range(1, count))]
        self.a = cupy.empty((problem.m, problem.k), _dtype(problem.dtype))
        device.fill_normal(self.a, seed + 1_000_003)
        self._expected = self._product() if expect else None
        self._plain: dict[bool, list[Any]] = {}
        self.converted: dict[str, Any] = {}  # what variants have made of the sets, by name

    def expected(self, m: int) -> Any:
        """float32 product of the first `m` rows of `a` with the unrounded weights of the first set."""
        assert self._expected is not None
        return self._expected[:m]

    def plain(self, transposed: bool = False) -> list[Any]:
        """Weights (k, n) in half precision, as many sets as make them cold; stored (n, k) if `transposed`."""
        if transposed not in self._plain:
            problem = self.problem
            count = rotation(2 * problem.n * problem.k, machine.l2_bytes())
            made = []
            for i in range(count):
                if transposed:
                    w = cupy.empty((problem.n, problem.k), _dtype(problem.dtype)).T
                else:
                    w = cupy.empty((problem.k, problem.n), _dtype(problem.dtype))
                packed = self.sets[i % len(self.sets)]
                device.dequantize_into(w, packed.b_packed, packed.scales, packed.zeros, problem.group_size)
                made.append(w)
            self._plain[transposed] = made
        return self._plain[transposed]

    def _product(self) -> Any:
        problem, first = self.problem, self.sets[0]
        w = cupy.empty((problem.k, problem.n), np.float32)
        device.dequantize_into(w, first.b_packed, first.scales, first.zeros, problem.group_size)
        return cupy.matmul(self.a.astype(np.float32), w)


def random_set(problem: GemmProblem, seed: int) -> PackedSet:
    """Random codes (every int32 is eight), scales of both signs, and zeros where the problem has them."""
    n, k = problem.n, problem.k
    b_packed = cupy.empty(packed_shape(k, n), np.int32)
    device.fill_words(b_packed, 3 * seed)
    rows, dtype = group_rows(k, problem.group_size), _dtype(problem.dtype)
    scale_bytes = -(-rows * n * dtype.itemsize // _ALIGN) * _ALIGN
    zero_dtype = None if problem.zeros is None else _dtype(problem.zeros)
    zero_bytes = 0 if zero_dtype is None else rows * n * zero_dtype.itemsize
    side = cupy.zeros(-(-(scale_bytes + zero_bytes) // _ALIGN) * _ALIGN, np.uint8)
    scales = _view(side, 0, rows, n, dtype)
    root = float(np.sqrt(k))
    device.fill_uniform(scales, 3 * seed + 1, SCALE_LOW / root, SCALE_HIGH / root, both_signs=True)
    zeros = None
    if zero_dtype is not None:
        zeros = _view(side, scale_bytes, rows, n, zero_dtype)
        if zero_dtype == dtype:
            device.fill_uniform(zeros, 3 * seed + 2, 0, 15)
        else:
            device.fill_words(side[scale_bytes:], 3 * seed + 2, device.LOW_NIBBLES)
    return PackedSet(b_packed, scales, zeros, side)


@cache
def check_dequantize(problem: GemmProblem) -> None:
    """`BenchError` unless our weights are those of `dequantize` on NumPy, bit for bit; once a kind."""
    packed = random_set(problem, seed=1)
    w = cupy.empty((problem.k, problem.n), np.float32)
    device.dequantize_into(w, packed.b_packed, packed.scales, packed.zeros, problem.group_size)
    b_packed, scales = cupy.asnumpy(packed.b_packed), cupy.asnumpy(packed.scales)
    zeros = None if packed.zeros is None else cupy.asnumpy(packed.zeros)
    expected = dequantize(b_packed, scales, zeros, problem.group_size, k=problem.k, dtype=np.float32)
    if not np.array_equal(cupy.asnumpy(w), expected):
        raise BenchError(
            "the benchmark's own weights are not those of dequantize: this is a bug, please report it"
        )


def _dtype(name: str) -> np.dtype[Any]:
    return _dtypes.dtype_of(name, (*_dtypes.HALF_DTYPES, np.dtype(np.uint8)), "zeros")


def _view(side: Any, start: int, rows: int, n: int, dtype: np.dtype[Any]) -> Any:
    return side[start : start + rows * n * dtype.itemsize].view(dtype).reshape(rows, n)
