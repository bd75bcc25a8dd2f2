"""Where a weight can be cut without packing it anew, and what its parts are then."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ._pack import BLOCK_K, BLOCK_N
from ._scalars import as_int

if TYPE_CHECKING:
    from ._linear_value import LinearValue

#: Why columns are cut at multiples of a block's.
COLUMNS_BECAUSE = f"a packed block holds {BLOCK_N} columns"


def column_parts(linear: LinearValue, parts: Any) -> list[dict[str, Any]]:
    """What is another in each part of a weight cut along n, as keywords of `Linear`."""
    return [
        {
            "b_packed": linear.b_packed[start // BLOCK_N : -(-stop // BLOCK_N)],
            "scales": linear.scales[:, start:stop],
            "zeros": None if linear.zeros is None else linear.zeros[:, start:stop],
            "bias": None if linear.bias is None else linear.bias[start:stop],
        }
        for start, stop in cut_ranges(parts, linear.out_features, BLOCK_N, "columns", COLUMNS_BECAUSE)
    ]


def row_parts(linear: LinearValue, parts: Any) -> list[dict[str, Any]]:
    """What is another in each part of a weight cut along k, as keywords of `Linear`."""
    if linear.activation is not None:
        raise ValueError(
            f"activation is {linear.activation!r}, which can't be split along k: it belongs after the sum "
            "of the parts; make the Linear without it, and apply it there"
        )
    if linear.perm is not None:
        raise ValueError(
            "a weight with perm (act-order) can't be split along k: its packed rows are in the order of "
            "their groups, so that a part's multiply columns from all over a, not a[..., i:j]; split "
            "columns, or take a checkpoint quantized without act-order (desc_act false)"
        )
    size = linear.group_size if linear.scales.shape[0] > 1 else -1
    unit, because = row_unit(linear)

    def of_groups(x: Any, start: int, stop: int) -> Any:
        return x if x is None or size < 0 else x[start // size : -(-stop // size)]

    return [
        {
            "b_packed": linear.b_packed[:, start // BLOCK_K : -(-stop // BLOCK_K)],
            "scales": of_groups(linear.scales, start, stop),
            "zeros": of_groups(linear.zeros, start, stop),
            "group_size": size,
            "k": stop - start,
            "bias": None if start else linear.bias,
        }
        for start, stop in cut_ranges(parts, linear.in_features, unit, "rows", because)
    ]


def row_unit(linear: LinearValue) -> tuple[int, str]:
    """What positions along k must be multiples of to cut there, and why."""
    because = f"a packed block holds {BLOCK_K} rows"
    if linear.scales.shape[0] == 1:  # which the parts share
        return BLOCK_K, because
    return max(linear.group_size, BLOCK_K), f"{because} and a group {linear.group_size}"


def even_cuts(size: int, parts: int, unit: int, axis: str, because: str) -> list[int]:
    """The positions that cut `size` into `parts` whose numbers of units differ by one at most, larger first.

    Raises:
        ValueError: there are fewer units than parts.

    >>> even_cuts(8192, 4, 64, "columns", "a block holds 64"), even_cuts(300, 2, 64, "columns", "")
    ([2048, 4096, 6144], [192])
    """
    units = -(-size // unit)
    if 1 < parts > units:
        raise ValueError(
            f"{size} {axis} can't be cut into {parts} parts: {because}, so parts are multiples of {unit}, "
            f"and there are {units} of these; use {max(units, 1)} or fewer"
        )
    least, rest = divmod(units, parts)
    return [unit * (least * i + min(i, rest)) for i in range(1, parts)]


def cut_ranges(parts: Any, size: int, unit: int, axis: str, because: str) -> list[tuple[int, int]]:
    """The ranges `[start, stop)` that `parts` cuts `size` into, each start a multiple of `unit`.

    `parts` is a number of equal parts, or increasing positions to cut at; ValueError where a cut can't be.

    >>> cut_ranges(2, 256, 64, "columns", "a block holds 64")
    [(0, 128), (128, 256)]
    >>> cut_ranges([64], 100, 64, "columns", "a block holds 64")
    [(0, 64), (64, 100)]
    """
    points = _points(parts, size, axis)
    for point in points:
        if not 0 < point < size:
            raise ValueError(
                f"a cut at {point} is outside the weight: it has {size} {axis}, so cuts lie between 1 and "
                f"{size - 1}"
            )
        if point % unit:
            near = ", ".join(str(each) for each in range(point - point % unit, size, unit)[:2] if each)
            raise ValueError(
                f"a cut at {point} of {size} {axis} would mean packing anew: {because}, so cuts lie at "
                f"multiples of {unit}; {f'near is {near}' if near else 'there is none here'}"
            )
    if any(left >= right for left, right in pairwise(points)):
        raise ValueError(f"the cuts {points} must increase: pass each position once, in order")
    return list(pairwise((0, *points, size)))


def _points(parts: Any, size: int, axis: str) -> list[int]:
    if isinstance(parts, Iterable):
        return [as_int("a cut", point) for point in parts]
    count = as_int("parts", parts)
    if count < 1:
        raise ValueError(f"parts is {count}: pass 1 or more, or the {axis} to cut at")
    if size % count:
        raise ValueError(f"parts is {count}, but {size} {axis} don't divide by it: pass the {axis} to cut at")
    return [size // count * i for i in range(1, count)]
