"""Act-order: a weight whose groups are not runs of k, made one by a permutation of k."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

from .._quantize import QuantizedWeight


class PermutedWeight(NamedTuple):
    """A weight with its rows in another order, which the activations have to follow.

    Quantizers that go through k by falling importance ("act-order", `desc_act`) form groups of rows that do
    not lie side by side. Here the rows are in the order of their groups, row i being row `perm[i]` of the
    original: `a @ w` is `gemm(a[..., perm], *weight)`, or `Linear(*weight, perm=perm)(a)`, which gathers by a
    kernel of its own. It is not a `QuantizedWeight`, and `gemm` refuses it, so that the permutation can't be
    forgotten.

    Attributes
    ----------
    weight : QuantizedWeight, rows in the order of the groups
    perm : int64 array (k,), of the arrays' library

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import Linear, PermutedWeight, gemm, quantize
    >>> w = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float16)
    >>> perm = np.arange(128)[::-1]
    >>> permuted = PermutedWeight(quantize(w[perm], 64), perm)
    >>> a = np.ones((2, 128), np.float16)
    >>> weight, perm = permuted
    >>> gemm(a[..., perm], *weight).shape
    (2, 64)
    >>> Linear(*weight, perm=perm)(a).shape
    (2, 64)
    """

    weight: QuantizedWeight
    perm: Any


def permutation(xp: ModuleType, name: str, g_idx: Any, k: int, group_size: int) -> Any:
    """The order of rows that puts the groups of `g_idx` side by side; None where they are already.

    Raises
    ------
    TypeError
        `g_idx` is not of integers.
    ValueError
        `g_idx` is not of shape (k,), or its groups are not of `group_size` rows each (the last may be short).
    """
    if g_idx is None:
        return None
    if g_idx.dtype.kind not in "iu":
        raise TypeError(f"{name} is {g_idx.dtype}: it must be integers (int32), the group of each row of k")
    if g_idx.shape != (k,):
        raise ValueError(
            f"{name} is of shape {tuple(g_idx.shape)}, but the weight has k = {k}: it must be (k,), the "
            "group of each row"
        )
    groups = xp.arange(k) // (group_size if group_size != -1 else max(k, 1))
    if bool((g_idx == groups).all()):
        return None
    perm = g_idx.argsort(kind="stable")
    if not bool((g_idx[perm] == groups).all()):
        found = f"from {int(g_idx.min())} to {int(g_idx.max())}"
        raise ValueError(
            f"{name} holds groups {found} that are not {int(groups[-1]) + 1} groups of "
            f"{int((groups == 0).sum())} rows each (the last may be short), and groups of other sizes are "
            f"not served: check group_size, and that {name} is of the same layer as the others, and whole"
        )
    return perm
