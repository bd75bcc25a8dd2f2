"""What of a weight is stored: the arguments that make it again, checked; arrays and what is none."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._arrays import as_arrays, type_name
from ._check_quantized import check_quantized
from ._gather import checked_perm
from ._pack import BLOCK_K
from ._quantize import QuantizedWeight
from .formats._permuted import PermutedWeight
from .linear import Linear

#: Weights by the words that files have for them.
KINDS = {"weight": QuantizedWeight, "permuted": PermutedWeight, "linear": Linear}


def parts_of(name: str, value: Any) -> dict[str, Any]:
    """The arguments that make `value` again, None left out; under its name alone if it is a plain array."""
    if isinstance(value, Linear):
        given = value._given()
        if given.get("dtype") is not None:
            given["dtype"] = given["dtype"].name
    elif isinstance(value, PermutedWeight):
        if not isinstance(value.weight, QuantizedWeight):
            raise TypeError(
                f"weight {name!r} is of a {type_name(value.weight)}: a PermutedWeight has a QuantizedWeight"
            )
        given = parts_of(name, value.weight) | {"perm": _perm(name, value)}
    elif isinstance(value, QuantizedWeight):
        try:
            weight = check_quantized(*value, k=_largest_k(value))
        except (TypeError, ValueError) as error:
            raise type(error)(f"weight {name!r}: {error}") from error
        given = {key: getattr(weight, key) for key in QuantizedWeight._fields}
    else:
        try:
            return {name: as_arrays({name: value})[1][0]}
        except TypeError as error:
            raise TypeError(
                f"{name!r} is a {type_name(value)}: {', '.join(one.__name__ for one in KINDS.values())} "
                "and arrays can be saved"
            ) from error
    return {key: x for key, x in given.items() if x is not None}


def _perm(name: str, value: PermutedWeight) -> Any:
    """What `Linear` would take as its `perm`; looked at on the host, where it goes."""
    try:
        perm = as_arrays({"perm": value.perm})[1][0]
        fits = -(-perm.size // BLOCK_K) == value.weight.b_packed.shape[1]
        k = perm.size if fits else _largest_k(value.weight)
        checked_perm(cupy.asnumpy(perm), np.empty(0), check_quantized(*value.weight, k=k).k)
    except (TypeError, ValueError) as error:
        raise type(error)(f"weight {name!r}: {error}") from error
    return perm


def _largest_k(weight: QuantizedWeight) -> int | None:
    """A QuantizedWeight does not keep k; the largest that its arrays allow is good for checking them."""
    blocks: tuple[int, ...] = getattr(weight.b_packed, "shape", ())
    scales: tuple[int, ...] = getattr(weight.scales, "shape", ())
    if len(blocks) != 3 or len(scales) != 2 or not weight.group_size:
        return None  # which check_quantized says more about
    most = BLOCK_K * blocks[1]
    return most if weight.group_size < 0 else min(most, weight.group_size * scales[0])
