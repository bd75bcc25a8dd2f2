"""What the shapes, strides and dtypes of one product's arguments say, wherever in memory they lie."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ._arrays import row_bytes_of
from ._check_out import dtype_of_result, row_bytes_of_out
from ._check_quantized import ALIGN_BYTES, check_weight, wrong_dtype
from ._config import GemmProblem
from ._dtypes import FLOAT32, HALF_DTYPES
from ._pack import BLOCK_N

_NAMES = {dtype: dtype.name for dtype in (*HALF_DTYPES, FLOAT32)}


class GemmLayout(NamedTuple):
    """The part of `GemmArguments` that needs no addresses, and what the checks of addresses need.

    - `a_has_rows`: one row stride walks `a`, so that it can be seen as (m, k) without a copy.
    - `a_aligned`: a tensor map takes `a` where its address is a multiple of 16 bytes.
    - `spans`: for a, b_packed, scales, zeros, bias, out the bytes they reach from their address (at most; -1:
      some lie before it), and the bits their address must not have.
    """

    problem: GemmProblem
    a_has_rows: bool
    a_aligned: bool
    a_row_bytes: int
    lead_shape: tuple[int, ...]
    b_row_bytes: int
    scales_row_bytes: int
    zeros_row_bytes: int
    out_row_bytes: int
    out_dtype: np.dtype[Any]
    spans: tuple[tuple[int, int], ...]


def gemm_layout(
    xp: ModuleType,
    a: Any,
    b_packed: Any,
    scales: Any,
    zeros: Any,
    group_size: Any,
    bias: Any,
    dtype: Any,
    out: Any,
) -> GemmLayout:
    """The layout of these arguments, checked."""
    a_dtype, a_shape = a.dtype, a.shape
    if a_dtype not in HALF_DTYPES:
        wrong_dtype("a", a, xp)
    if not a_shape:
        raise ValueError("a is of shape (): it must be (k,), (m, k) or (..., m, k); reshape it")
    n, k, group_size, zeros_dtype, b_row_bytes, scales_row_bytes, zeros_row_bytes = check_weight(
        xp, b_packed, scales, zeros, group_size, a_shape[-1], a
    )
    if bias is not None:
        _check_bias(bias, n, a, xp)
    lead_shape = a_shape[:-1]
    m = math.prod(lead_shape)
    a_has_rows, a_aligned, a_row_bytes = _rows_of_a(a, m, xp)
    out_dtype = dtype_of_result(dtype, out, a_dtype, xp)
    out_row_bytes = n * out_dtype.itemsize if out is None else row_bytes_of_out(out, (*lead_shape, n), m)
    rows = scales.shape[0]
    spans = (
        (m * a_row_bytes if a_aligned else _reach_bytes(a), a.itemsize - 1),
        (-(-n // BLOCK_N) * b_row_bytes, ALIGN_BYTES - 1),
        (rows * scales_row_bytes, scales.itemsize - 1),
        (rows * zeros_row_bytes, 0 if zeros is None else zeros.itemsize - 1),
        (2 * n, a.itemsize - 1),
        (m * out_row_bytes, out_dtype.itemsize - 1),
    )
    return GemmLayout(
        GemmProblem(m, n, k, group_size, _NAMES[a_dtype], zeros_dtype, _NAMES[out_dtype]),
        a_has_rows, a_aligned, a_row_bytes, lead_shape,
        b_row_bytes, scales_row_bytes, zeros_row_bytes, out_row_bytes, out_dtype, spans,
    )  # fmt: skip


def copied_row_bytes(k: int, itemsize: int) -> int:
    """Bytes of a row of `a` in a copy that a tensor map takes: whole multiples of 16."""
    return -(-k * itemsize // ALIGN_BYTES) * ALIGN_BYTES


def _rows_of_a(a: Any, m: int, xp: ModuleType) -> tuple[bool, bool, int]:
    """Whether one row stride walks `a`; whether a tensor map takes it; and the bytes of a row step.

    Where no map takes it, the step is that of the copy to be made; so it is where there is no second row.
    """
    shape, strides, itemsize = a.shape, a.strides, a.itemsize
    copied = copied_row_bytes(shape[-1], itemsize)
    if xp is np:
        return True, True, copied
    if any(stride % itemsize for size, stride in zip(shape, strides, strict=True) if size > 1):
        raise ValueError(
            f"a has strides {strides}, no multiples of its {itemsize} bytes an element: a GPU can't read "
            "that; pass an array that was not cut inside its elements"
        )
    row = row_bytes_of(shape, strides)
    if row is None:
        return False, False, copied
    if not m:
        return True, True, copied
    if m == 1:
        row = copied
    if (strides[-1] == itemsize or shape[-1] <= 1) and row >= shape[-1] * itemsize and not row % ALIGN_BYTES:
        return True, True, row
    return True, False, copied


def _reach_bytes(a: Any) -> int:
    """Bytes from the address of `a` to its end; -1 where negative strides lead elsewhere."""
    if any(stride < 0 for stride in a.strides):
        return -1
    return a.itemsize + sum((size - 1) * stride for size, stride in zip(a.shape, a.strides, strict=True))


def _check_bias(bias: Any, n: int, a: Any, xp: ModuleType) -> None:
    if bias.dtype != a.dtype:
        wrong_dtype("bias", bias, xp, a)
    if bias.shape != (n,):
        hint = "pass bias.reshape(-1)" if bias.size == n else "one value for each column of scales is needed"
        raise ValueError(f"bias is of shape {bias.shape}: it must be (n,) = ({n},); {hint}")
    if n > 1 and bias.strides[0] != bias.dtype.itemsize:
        raise ValueError(
            f"bias has a stride of {bias.strides[0]} bytes: it must be contiguous; pass "
            f"{xp.__name__}.ascontiguousarray(bias)"
        )
