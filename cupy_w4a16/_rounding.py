"""Round to nearest: the scale and zero of a group that its extremes give, and the codes nearest its weights.

Groups come as float32 ``(groups, rows, columns)``, their scales and zeros as float32 ``(groups, columns)``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

#: The zero point of symmetric weights.
SYMMETRIC_ZERO = 8
MAX_CODE = 15


def rounded(values: Any, dtype: Any) -> Any:
    """``values`` rounded to ``dtype``, nearest even; overflow gives infinity, silently, as on a GPU."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype)


def as_float32(xp: ModuleType, w: Any, first_column: int) -> Any:
    """A float32 copy of weights; ValueError where one is finite, and is so no more."""
    values = rounded(w, np.float32)
    if w.dtype == np.float64:  # no other dtype reaches further
        _refuse(
            xp.isinf(values) & xp.isfinite(w),
            first_column,
            f"exceeds float32, in which it is quantized ({float(np.finfo(np.float32).max):g})",
            "scale w down",
        )
    return values


def scale_and_zero(
    xp: ModuleType, grouped: Any, symmetric: bool, dtype: np.dtype[Any], first_column: int
) -> tuple[Any, Any]:
    """Scale, a number that ``dtype`` holds, and whole zero of each group, by the formulas of ``quantize``.

    ValueError for weights that are not finite and scales that ``dtype`` can't hold."""
    high, low = grouped.max(axis=1), grouped.min(axis=1)
    _refuse(~(xp.isfinite(high) & xp.isfinite(low)), first_column, "holds a NaN or an infinity", "remove it")
    if symmetric:
        extreme = xp.where(high > -low, high, low)
        raw = extreme / -8
    else:
        high, low = xp.maximum(high, 0), xp.minimum(low, 0)
        extreme = xp.maximum(high, -low)
        raw = high / MAX_CODE - low / MAX_CODE  # high - low itself may overflow
    scale = rounded(raw, dtype).astype(np.float32)
    _refuse(
        ~xp.isfinite(scale),
        first_column,
        f"needs a scale larger than {dtype.name} holds ({float(ml_dtypes.finfo(dtype).max):g})",
        "quantize w times a small factor and give gemm its inverse as alpha, or pass dtype='bfloat16'",
    )
    smallest = np.float32(ml_dtypes.finfo(dtype).smallest_subnormal)
    scale = xp.where(scale == 0, xp.copysign(smallest, raw), scale)
    scale = xp.where(extreme == 0, np.float32(1), scale)
    if symmetric:
        return scale, xp.full_like(scale, SYMMETRIC_ZERO)
    return scale, xp.clip(xp.rint(-low / scale), 0, MAX_CODE)


def codes(xp: ModuleType, grouped: Any, scale: Any, zero: Any) -> Any:
    """q, still float32, in the place of ``grouped``: for any zero, whole or not."""
    grouped /= scale[:, None]
    whole = xp.rint(zero)
    grouped += (zero - whole)[:, None]
    grouped = xp.rint(grouped, out=grouped)
    grouped += whole[:, None]
    return xp.clip(grouped, 0, MAX_CODE, out=grouped)


def _refuse(bad: Any, first_column: int, what: str, remedy: str) -> None:
    if bool(bad.any()):
        column = first_column + int(bad.any(axis=0).argmax())
        raise ValueError(f"w {what} in column {column} (the first of {int(bad.any(axis=0).sum())}): {remedy}")
