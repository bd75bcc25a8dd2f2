"""What float64 says of a product, and how far from it right results lie: ``testing.assert_gemm_close``."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from ._activations import apply_activation
from ._check_quantized import QuantizedArguments
from ._dtypes import INTEGER_DTYPES
from ._quantize import as_wider, exact_weights
from ._rounding import rounded

# The steepest slope of any activation (gelu's and gelu_tanh's, near x = 1.5), rounded up; relu's is 1.
_SLOPE = {None: 1.0, "relu": 1.0, "gelu": 1.13, "gelu_tanh": 1.13, "silu": 1.1}
_FLOAT32_LIMIT = 2.0**127


class Expected:
    """Some rows and columns of c from unrounded and rounded weights, with the worst and the typical error."""

    def __init__(
        self,
        xp: ModuleType,
        a: Any,
        weight: QuantizedArguments,
        columns: slice,
        bias: Any,
        alpha: float,
        activation: str | None,
        out_dtype: Any,
    ) -> None:
        x = as_wider(a, np.float64)
        parts = (weight.b_packed, weight.scales, weight.zeros, weight.group_size, weight.k, columns)
        w = exact_weights(*parts, compute=np.float64)
        w_rounded = as_wider(rounded(exact_weights(*parts), a.dtype), np.float64)
        with np.errstate(all="ignore"):
            accum, accum_rounded = x @ w, x @ w_rounded
            size_sum, size_rms = xp.abs(x) @ xp.abs(w), xp.sqrt((x * x) @ (w * w))
            a_sum = xp.abs(x).sum(axis=1)[:, None]
            shift = 0.0 if bias is None else as_wider(bias[columns], np.float64)

            k, group = weight.k, weight.k if weight.group_size == -1 else weight.group_size
            unit, smallest = unit_and_smallest(a.dtype)
            worst = unit * size_sum + smallest / 2 * a_sum
            typical = (2.0**-20 * math.sqrt(k) + 2.0**-24 * k) * (xp.abs(accum) + size_rms)
            self.float_zeros = weight.zeros is not None and weight.zeros.dtype not in INTEGER_DTYPES
            if self.float_zeros:
                worst = 5 * worst
                typical += 4 * unit * math.sqrt(max(1, group / 16) / 3) * size_rms + 2 * smallest * a_sum
                no_zeros = (*parts[:2], weight.zeros * 0, weight.group_size, weight.k, columns)
                without = exact_weights(*no_zeros, compute=np.float64)
                size_sum = xp.abs(x) @ (xp.abs(without) + xp.abs(w - without))
            worst += 2.0**-22 * (k + 16) * size_sum

            before = alpha * accum + shift
            last_steps = 2.0**-22 * (xp.abs(alpha * accum) + abs(shift))
            self.exact = apply_activation(xp, before, activation)
            self.from_rounded = apply_activation(xp, alpha * accum_rounded + shift, activation)
            self.worst, self.typical = (
                _after(xp, abs(alpha) * error + last_steps, before, self.exact, activation, out_dtype)
                for error in (worst, typical)
            )
            #: Results of this size and more may be infinite.
            self.largest = float(ml_dtypes.finfo(out_dtype).max)
            #: Where the bounds mean something.
            self.sure = xp.isfinite(accum_rounded) & (max(1.0, abs(alpha)) * size_sum < _FLOAT32_LIMIT)


def unit_and_smallest(dtype: Any) -> tuple[float, float]:
    """Half the spacing above 1, and the smallest positive number."""
    info = ml_dtypes.finfo(dtype)
    return float(info.eps) / 2, float(info.smallest_subnormal)


def _after(xp: ModuleType, error: Any, x: Any, y: Any, activation: str | None, out_dtype: Any) -> Any:
    """The error of y = activation(x), rounded, where x = alpha * (a @ w) + bias has the error ``error``."""
    unit, smallest = unit_and_smallest(out_dtype)
    evaluating = 0.0 if activation in (None, "relu") else 2.0**-20
    error = _SLOPE[activation] * error + evaluating * (xp.abs(x) + error)
    return error + unit * (xp.abs(y) + error) + smallest / 2
