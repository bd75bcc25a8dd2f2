"""Products on the GPU whose arrays lie among poison, so that what is read or written beside them is seen.

Arrays are made and looked at on the host: CuPy compiles each of its own kernels at first use, for seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from cupy_w4a16 import Linear, gemm, workspace_bytes

from .cases import Arguments, Case, differences

POISON = 0xFF  # bytes of it are NaN in every float dtype, 255 and -1 in the integer ones
GUARD_BYTES = 4096  # before and after each array: more than a kernel's widest load, a row of a tile


class Placed:
    """A GPU array at a chosen place and stride within a buffer of poison."""

    def __init__(self, x: Any, strides: Sequence[int] | None = None, offset_bytes: int = 0) -> None:
        self._strides = tuple(x.strides if strides is None else strides)
        self._shape, self._dtype = x.shape, x.dtype
        steps = zip(x.shape, self._strides, strict=True)
        extent = sum((size - 1) * stride for size, stride in steps) + x.itemsize if x.size else 0
        self._start = GUARD_BYTES + offset_bytes
        self._host = np.full(self._start + extent + GUARD_BYTES, POISON, np.uint8)
        self._view(self._host)[...] = x
        self._buffer = cupy.asarray(self._host)
        self.array = cupy.ndarray(x.shape, x.dtype, self._buffer.data + self._start, self._strides)

    def _view(self, host: Any) -> Any:
        return np.ndarray(self._shape, self._dtype, host, self._start, self._strides)

    def download(self) -> Any:
        """What stands in the array now; nothing around it may have changed."""
        host = cupy.asnumpy(self._buffer)
        values = self._view(host).copy()
        self._view(host)[...] = self._view(self._host)
        changed = np.flatnonzero(host != self._host) - self._start
        assert not changed.size, (
            f"{changed.size} bytes beside the array were written, the first at {changed[0]}"
        )
        return values

    def assert_unchanged(self) -> None:
        assert (cupy.asnumpy(self._buffer) == self._host).all(), "an input was written"


@dataclass(frozen=True)
class Layout:
    """How the arrays of one product lie in memory."""

    a_offset: int = 0  # elements from an aligned address
    a_gap: int = 0  # elements between rows
    a_step: int = 1  # elements from one k to the next
    a_by_columns: bool = False  # m is the fastest axis
    b_gap: int = 0  # blocks of other k between rows of blocks, as in b_packed[:, i:j]
    group_offset: int = 0  # elements of scales and zeros from an aligned address
    group_gap: int = 0  # columns between rows of scales and zeros, as in scales[:, i:j]
    bias_offset: int = 0
    out_offset: int = 0
    out_gap: int = 0

    def __str__(self) -> str:
        return differences(self) or "dense"

    def a_strides(self, m: int, k: int) -> tuple[int, int]:
        if self.a_by_columns:
            return 2 * self.a_step, 2 * (m * self.a_step + self.a_gap)
        return 2 * (k * self.a_step + self.a_gap), 2 * self.a_step


DENSE = Layout()


@dataclass(frozen=True)
class Way:
    """How a product is asked for."""

    linear: bool = False
    pdl: bool = False
    workspace: bool = False  # the caller's, for `gemm`

    def call(self, case: Case, a: Any, b_packed: Any, scales: Any, zeros: Any, *, bias: Any, out: Any) -> Any:
        weight = b_packed, scales, zeros, case.group_size
        if self.linear:
            layer = Linear(*weight, k=case.k, bias=bias, dtype=case.out_dtype, pdl=self.pdl, **case.options)
            return layer(a, out, case.config)
        if self.pdl:
            cupy.cuda.get_current_stream().synchronize()  # weights must be complete
        room = Placed(np.full(workspace_bytes(case.problem), POISON, np.uint8)) if self.workspace else None
        workspace = None if room is None else room.array
        c = gemm(
            a, *weight, bias=bias, out=out, config=case.config, workspace=workspace, pdl=self.pdl,
            **case.options,
        )  # fmt: skip
        if room is not None:
            room.download()  # which sees what was written beside it
        return c


GEMM = Way()

# Groups' rows apart, or where they begin at no multiple of 16 bytes; blocks of weights apart.
GROUP_LAYOUTS = (
    DENSE,
    Layout(group_gap=64),
    Layout(group_gap=8, group_offset=16),
    Layout(group_gap=3),
    Layout(group_offset=1, bias_offset=1),
    Layout(b_gap=2),
)


def multiply(case: Case, arguments: Arguments, layout: Layout = DENSE, way: Way = GEMM) -> Any:
    """The product of a case in a poisoned `out`, on NumPy; neither inputs nor surroundings may be written."""
    a, b_packed, scales, zeros, bias = arguments
    blocks_k = b_packed.shape[1] + layout.b_gap
    placed = Arguments(
        Placed(a, layout.a_strides(case.m, case.k), 2 * layout.a_offset),
        Placed(b_packed, (4096 * blocks_k, 4096, 4)),
        _rows(scales, layout.group_gap, layout.group_offset),
        None if zeros is None else _rows(zeros, layout.group_gap, layout.group_offset),
        None if bias is None else Placed(bias, offset_bytes=2 * layout.bias_offset),
    )
    out = _rows(poisoned(case), layout.out_gap, layout.out_offset)
    arrays = [None if each is None else each.array for each in placed]
    returned = way.call(case, *arrays[:4], bias=arrays[4], out=out.array)
    assert returned is out.array
    c = out.download()
    for each in placed:
        if each is not None:
            each.assert_unchanged()
    return c


def poisoned(case: Case) -> Any:
    """A host array of the result's shape and dtype, all poison."""
    return np.full((case.m, case.n * case.out_dtype.itemsize), POISON, np.uint8).view(case.out_dtype)


def _rows(x: Any, gap: int, offset: int) -> Placed:
    return Placed(x, ((x.shape[1] + gap) * x.itemsize, x.itemsize), offset * x.itemsize)
