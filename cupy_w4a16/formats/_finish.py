"""The end that all readers share: codes, scales and zeros, checked against each other, become a weight."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .._check_quantized import wrong_dtype
from .._dtypes import HALF_DTYPES
from .._group_size import ALLOWED_SIZES, fitting_group_size, group_rows, is_group_size
from .._pack import pack
from .._quantize import QuantizedWeight
from .._rounding import SYMMETRIC_ZERO
from .._scalars import as_int
from ._permuted import PermutedWeight


def check_scales(xp: ModuleType, name: str, scales: Any, layout: str) -> None:
    """TypeError or ValueError unless `scales` is 2-D, float16 or bfloat16."""
    if scales.dtype not in HALF_DTYPES:
        wrong_dtype(name, scales, xp)
    if scales.ndim != 2:
        raise ValueError(f"{name} is of shape {tuple(scales.shape)}: it must be 2-D, {layout}")


def group_size_of(name: str, groups: int, k: int, given: Any) -> int:
    """The group size of k rows in `groups` groups: -1 for one group, else the one given, or that fits."""
    served = f"served are {ALLOWED_SIZES}"
    if given is None:
        size = fitting_group_size(k, groups)
        if size is None:
            each = f", {k / groups:g} rows each" if groups else ""
            raise ValueError(
                f"{name} has {groups} groups for k = {k}{each}: no group size we serve; {served}"
            )
        return size
    size = as_int("group_size", given)
    if 0 < k <= size:
        size = -1
    elif not is_group_size(size):
        raise ValueError(f"group_size is {size}: {served}")
    needed = group_rows(k, size)
    if needed != groups:
        raise ValueError(
            f"{name} has {groups} groups, but group_size {given} and k = {k} make {needed}; {served}"
        )
    return size


def finished(
    xp: ModuleType,
    codes: Any,
    scales: Any,
    zeros: tuple[str, Any] | None,
    group_size: int,
    symmetric: bool | None,
    perm: Any,
) -> QuantizedWeight | PermutedWeight:
    """Codes (k, n), scales and zeros (groups, n) as a weight; `zeros` come with the name of their tensor."""
    weight = QuantizedWeight(
        pack(codes if perm is None else codes[perm]),
        xp.ascontiguousarray(scales),
        _zeros(xp, zeros, symmetric),
        group_size,
    )
    return weight if perm is None else PermutedWeight(weight, perm)


def _zeros(xp: ModuleType, named: tuple[str, Any] | None, symmetric: bool | None) -> Any:
    """The zeros to keep; None where all are 8, unless `symmetric` is False."""
    if named is None:
        return None
    name, zeros = named
    if symmetric is False:
        return xp.ascontiguousarray(zeros)
    if bool((zeros == SYMMETRIC_ZERO).all()):
        return None
    if symmetric:
        low, high = int(zeros.min()), int(zeros.max())
        hint = ", and zero_offset= to the format's version" if name == "qzeros" and low == high else ""
        raise ValueError(
            f"symmetric is True, but {name} holds zeros from {low} to {high}, not {SYMMETRIC_ZERO} alone: "
            f"leave symmetric= out{hint}"
        )
    return xp.ascontiguousarray(zeros)
