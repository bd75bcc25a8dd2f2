"""How weights become 4 bits: a scheme, and what it makes of the groups of a few columns."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ._half_quadratic import half_quadratic_zero
from ._rounding import codes, scale_and_zero
from ._search import least_squares

#: Ways to choose scales and zeros: from a group's extremes, by least squares, by a p-norm.
METHODS = ("rtn", "mse", "hqq")


class Scheme(NamedTuple):
    """The arguments of ``quantize`` but the weights, checked; ``dtype`` is that of the scales."""

    group_size: int
    symmetric: bool
    dtype: np.dtype[Any]
    method: str

    @property
    def zeros_dtype(self) -> np.dtype[Any] | None:
        if self.symmetric:
            return None
        return self.dtype if self.method == "hqq" else np.dtype(np.uint8)


class Groups(NamedTuple):
    """Groups of as many rows each, quantized: float32 ``q (groups, rows, columns)``, the others without rows.

    ``rows`` are those of the weight, ``groups`` those of its scales."""

    rows: slice
    groups: slice
    q: Any
    scale: Any
    zero: Any


def quantized_groups(xp: ModuleType, values: Any, scheme: Scheme, first_column: int) -> Iterator[Groups]:
    """All groups of ``values``, float32 (k, columns), where the codes take the place of the weights."""
    for rows, groups in groups_of(values.shape[0], scheme.group_size):
        grouped = values[rows].reshape(groups.stop - groups.start, -1, values.shape[1])
        scale, zero = scale_and_zero(xp, grouped, scheme.symmetric, scheme.dtype, first_column)
        if scheme.method == "mse":
            scale, zero = least_squares(xp, grouped, scale, zero, scheme.symmetric, scheme.dtype)
        elif scheme.method == "hqq":
            zero = half_quadratic_zero(xp, grouped, scale, zero, scheme.dtype)
        yield Groups(rows, groups, codes(xp, grouped, scale, zero), scale, zero)


def groups_of(k: int, group_size: int) -> Iterator[tuple[slice, slice]]:
    """(rows of the weight, rows of its scales): all whole groups together, then the short one if any."""
    size = k if group_size == -1 else group_size
    whole = k // size if size else 0
    if whole:
        yield slice(0, whole * size), slice(0, whole)
    if whole * size < k:
        yield slice(whole * size, k), slice(whole, whole + 1)
