"""``quantize(..., method="mse")``: the range of codes that leaves a group the least squared error.

A scale that reaches a group's extremes spends its steps on few weights. A smaller one clips these and rounds
all others more finely; a larger one may happen to meet more of them. So scales around that of round to
nearest are tried, each rounded to its dtype, and the best is kept. GPTQ's code calls such a search ``mse``
(E. Frantar et al., arXiv:2210.17323); signs and zeros are tried here too::

    symmetric     scale * (+-i / 32)    i = 18 .. 37      zero 8
    asymmetric    scale * (i / 32)      i = 18 .. 37      the zero of round to nearest, one less, one more

The other sign turns the codes' longer end, -8, to the other side of 0; a zero moved by one clips more at one
end and less at the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from ._group_sums import squares
from ._rounding import MAX_CODE, rounded

_RATIOS = tuple(i / 32 for i in range(37, 17, -1))


def least_squares(
    xp: ModuleType, grouped: Any, scale: Any, zero: Any, symmetric: bool, dtype: np.dtype[Any]
) -> tuple[Any, Any]:
    """Scale and zero of each group, chosen by the sum over the group of (w - (q - zero) * scale)^2.

    ``grouped`` is float32 (groups, rows, columns), ``scale`` and ``zero`` (groups, columns) are those of
    round to nearest. A group leaves them only for what is truly better, beyond the rounding of the sums.
    """
    # Divided by powers of two, which changes no digit, so that squares stay within float32.
    exponent = xp.frexp(scale)[1] - 1
    weights = grouped / xp.ldexp(xp.ones_like(scale), exponent)[:, None]

    def error(scale: Any, zero: Any) -> Any:
        return squares(xp, weights, xp.ldexp(scale, -exponent), zero)

    # A code times a scale is exact, the rest is not: the sum of r squares is right to (r + 2) * 2^-24.
    needed = np.float32(1 - 2 * (grouped.shape[1] + 4) * 2.0**-24)
    best_scale, best_zero, least = scale, zero, error(scale, zero)
    for ratio, shift in _candidates(symmetric):
        with np.errstate(over="ignore"):
            tried_scale = rounded(scale * np.float32(ratio), dtype).astype(np.float32)
        # Never 0: more than half of dtype's smallest number is rounded up to it.
        tried_scale = xp.where(xp.isfinite(tried_scale), tried_scale, scale)
        tried_zero = xp.clip(zero + np.float32(shift), 0, MAX_CODE) if shift else zero
        found = error(tried_scale, tried_zero)
        better = found < least * needed
        least = xp.where(better, found, least)
        best_scale = xp.where(better, tried_scale, best_scale)
        best_zero = xp.where(better, tried_zero, best_zero)
    return best_scale, best_zero


def _candidates(symmetric: bool) -> Iterator[tuple[float, int]]:
    """(factor of the scale, shift of the zero)."""
    for sign, shift in ((1, 0), (-1, 0)) if symmetric else ((1, 0), (1, -1), (1, 1)):
        for ratio in _RATIOS:
            yield sign * ratio, shift
