"""The activation functions of ``gemm`` in float64, on NumPy and CuPy arrays: what the kernels are held to."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

# erfc(z) is fitted on 0 <= z <= _Z_END; beyond, erfc is below 1e-75 and 0 stands for it.
_Z_END = 13.0
_T_END = 2 / (2 + _Z_END)
_DEGREE = 24


@cache
def _erfc_fit() -> tuple[float, ...]:
    """Chebyshev coefficients of log(erfc(z)) + z^2 in t = 2 / (2 + z), interpolated through math.erfc.

    NumPy has no erf and SciPy would be a dependency for this alone. In t the function is smooth up to z =
    infinity, so that degree 24 gives erfc to 1.1e-9 *relative*, tails included, a hundredth of a float32's
    rounding (degree 16: 7e-7, degree 32: 2e-12). The fit takes under a millisecond, once."""

    def target(x: float) -> float:
        z = 2 / (_T_END + (x + 1) / 2 * (1 - _T_END)) - 2
        return math.log(math.erfc(z)) + z * z

    fit = np.polynomial.chebyshev.chebinterpolate(np.vectorize(target), _DEGREE)
    return tuple(float(c) for c in fit)


def _erfc_of_magnitude(xp: ModuleType, z: Any) -> Any:
    """erfc(z) for z >= 0 in float64."""
    t = 2 / (2 + z)
    x = (t - _T_END) * (2 / (1 - _T_END)) - 1
    # Clenshaw's recurrence: the sum of c[i] T_i(x), from the highest term down.
    high, higher = xp.zeros_like(x), xp.zeros_like(x)
    first, *rest = _erfc_fit()
    for c in reversed(rest):
        high, higher = c + 2 * x * high - higher, high
    return xp.where(z <= _Z_END, xp.exp(first + x * high - higher - z * z), xp.where(xp.isnan(z), z, 0.0))


def _gelu(xp: ModuleType, x: Any) -> Any:
    """x * (1 + erf(x / sqrt 2)) / 2."""
    tail = _erfc_of_magnitude(xp, xp.abs(x) / math.sqrt(2)) / 2
    return x * xp.where(x < 0, tail, 1 - tail)


def _gelu_tanh(xp: ModuleType, x: Any) -> Any:
    """x * (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (x + 0.044715 x^3), as x / (1 + exp(-2 u))."""
    return x / (1 + xp.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _silu(xp: ModuleType, x: Any) -> Any:
    """x / (1 + exp(-x))."""
    return x / (1 + xp.exp(-x))


def _relu(xp: ModuleType, x: Any) -> Any:
    """max(x, 0); NaN stays NaN."""
    return xp.maximum(x, 0)


_FUNCTIONS: dict[str, Callable[[ModuleType, Any], Any]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "relu": _relu,
}
#: The names ``activation=`` takes, besides None.
ACTIVATIONS = tuple(_FUNCTIONS)


def apply_activation(xp: ModuleType, x: Any, activation: str | None) -> Any:
    """``activation(x)`` in float64 for a float32 or float64 array ``x``; ``x`` itself for None."""
    if activation is None:
        return x
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return _FUNCTIONS[activation](xp, x.astype(np.float64))
