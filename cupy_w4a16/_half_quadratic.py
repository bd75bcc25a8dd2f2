"""``quantize(..., method="hqq")``: float zeros by half-quadratic splitting.

After H. Badri and A. Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023
(https://mobiusml.github.io/hqq_blog/); splitting as such is D. Geman's and G. Reynolds' (IEEE TPAMI 14,
1992), the shrinkage R. Chartrand's (ISBI 2009). A p-norm with p < 1 makes less of the large errors of the few
weights far out than squares do, so that the zero serves the many. Each group keeps the scale of asymmetric
round to nearest and minimises over its zero, errors d counted in steps of the scale::

    sum |d|^p    where    y = w / scale + zero,    q = clip(rint(y), 0, 15),    d = y - q,    p = 0.7

Splitting gives every d a twin e, the error to be tolerated, and lowers in turn, over e and over the zero,
``sum |e|^p + beta / 2 * (e - d)^2``::

    e    = sign(d) * max(|d| - |d|^(p - 1) / beta, 0)
    zero = zero - mean(d - e) = zero - mean(sign(d) * min(|d|, |d|^(p - 1) / beta))

Two things differ from the source. Its beta goes from 10 up by 1 % a turn for d in the weights' own units,
where any |d| below 0.17 makes e 0: all of them in most models. With d in steps beta means the same for all
weights; from 3 up by 10 % gave the lowest norm of those tried on the demo's encoder, groups of 128. And a
group keeps the best zero that it met, the integer of round to nearest among them, so that no norm rises
(but for rounding, in groups that are all but exact).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ._group_sums import powers
from ._rounding import rounded

_BETA, _GROWTH, _TURNS = 3.0, 1.1, 20
#: What a zero must bring: with d right to 2^-20 steps, |d|^p is right to 2^-14, and typically 0.3.
_NEEDED = 1 - 2.0**-10


def half_quadratic_zero(xp: ModuleType, grouped: Any, scale: Any, zero: Any, dtype: np.dtype[Any]) -> Any:
    """The zero of each group, float32 but a number that ``dtype`` holds, for ``scale`` as it is.

    ``grouped`` is float32 (groups, rows, columns), ``scale`` and ``zero`` (groups, columns) are those of
    asymmetric round to nearest.
    """
    steps = grouped / scale[:, None]
    rows = np.float32(grouped.shape[1])
    best, least, beta = zero, xp.full_like(zero, np.inf), _BETA
    free = zero  # moves by less than dtype's spacing too
    for _ in range(_TURNS + 1):
        norm, excess = powers(xp, steps, zero, beta)
        better = norm < least * np.float32(_NEEDED)
        best, least = xp.where(better, zero, best), xp.where(better, norm, least)
        free = free - excess / rows
        zero = rounded(free, dtype).astype(np.float32)
        beta *= _GROWTH
    return best
