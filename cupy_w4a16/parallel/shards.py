"""One rank's part of a weight, cut out of its packed blocks as they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import cupy
import numpy as np

from .._arrays import type_name
from .._pack import BLOCK_N
from .._scalars import as_int, as_ints
from .._split import COLUMNS_BECAUSE, even_cuts, row_unit
from ..linear import Linear


def column_shard(
    linear: Linear, rank: int, size: int, *, fused: Sequence[int] | None = None, multiple_of: int = BLOCK_N
) -> Linear:
    """The columns of one rank of `size`: its results are the same columns of the whole's.

    The numbers of blocks that ranks get differ by one at most. Without `fused` the part is a view. Bias,
    alpha and activation go along.

    Parameters
    ----------
    linear : Linear
    rank, size : int, the rank, from 0, and how many there are
    fused : ints that sum up to n: widths of layers that lie side by side in this weight, each of which is cut
        by itself, so that a rank gets its heads of q, of k and of v, or as much of gate as of up. The rank's
        pieces are copied together then. All but the last are multiples of 64
    multiple_of : int, a multiple of 64: the columns that stay together, such as a head's

    Returns
    -------
    Linear

    Raises
    ------
    TypeError, ValueError
        There are too few blocks for so many ranks, or an argument does not fit; the message says which.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import Linear, quantize
    >>> from cupy_w4a16.parallel import column_shard
    >>> gate_up = Linear(*quantize(np.eye(128, 384, dtype=np.float16)))
    >>> [column_shard(gate_up, rank, 2).out_features for rank in range(2)]
    [192, 192]
    >>> [column_shard(gate_up, rank, 2, fused=(192, 192)).out_features for rank in range(2)]
    [256, 128]
    """
    check_linear(linear)
    check_rank(rank, size)
    ranges = _pieces(linear, size, fused, multiple_of)
    edges = {edge for ranks in ranges for start, stop in ranks for edge in (start, stop)}
    parts = linear.split_columns(sorted(edges - {0, linear.out_features}))
    starts = (0, *accumulate(part.out_features for part in parts))
    by_start = dict(zip(starts, parts, strict=False))
    return _joined([by_start[ranks[rank][0]] for ranks in ranges])


def column_widths(linear: Linear, size: int, multiple_of: int = BLOCK_N) -> list[int]:
    """How many columns each rank has of a weight that is not fused."""
    (ranges,) = _pieces(linear, size, None, multiple_of)
    return [stop - start for start, stop in ranges]


def row_shard(linear: Linear, rank: int, size: int, *, multiple_of: int | None = None) -> Linear:
    """The rows of one rank of `size`, a view: the ranks' results, for their columns of `a`, add up.

    Its results are float32 whatever those of `linear` are: they are not results yet but parts of a sum, which
    is to be rounded once. The numbers of rows differ by one unit at most, a unit being the larger of a block
    (128) and a group. The bias goes with rank 0.

    Parameters
    ----------
    linear : Linear, without an activation and without `perm`
    rank, size : int, the rank, from 0, and how many there are
    multiple_of : int, a multiple of the unit: rows that stay together; None: the unit. For results of a
        `column_shard` of as many columns, give both the same

    Returns
    -------
    Linear

    Raises
    ------
    TypeError, ValueError
        There are too few units for so many ranks, `linear` has an activation (which belongs after the
        sum) or `perm` (whose rows lie apart), or an argument does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import Linear, quantize
    >>> from cupy_w4a16.parallel import row_shard
    >>> down = Linear(*quantize(np.eye(384, 64, dtype=np.float16)))
    >>> [row_shard(down, rank, 2) for rank in range(2)]
    [Linear(256 -> 64, group_size=128, float32, numpy), Linear(128 -> 64, group_size=128, float32, numpy)]
    """
    check_linear(linear)
    check_rank(rank, size)
    unit, because = row_unit(linear)
    unit = _checked_multiple(unit if multiple_of is None else multiple_of, unit, because)
    cuts = even_cuts(linear.in_features, size, unit, "rows", because)
    return linear._again(dtype=np.float32).split_rows(cuts)[rank]


def check_linear(linear: Any) -> None:
    """TypeError for what is no `Linear`, a packed weight without options, say."""
    if not isinstance(linear, Linear):
        raise TypeError(f"linear is a {type_name(linear)}: pass a cupy_w4a16.Linear, made by Linear(*weight)")


def check_rank(rank: Any, size: Any) -> tuple[int, int]:
    """Both as ints; TypeError, ValueError unless `rank` is one of `size`."""
    rank, size = as_int("rank", rank), as_int("size", size)
    if size < 1:
        raise ValueError(f"size is {size}: there must be 1 rank or more")
    if not 0 <= rank < size:
        raise ValueError(f"rank is {rank}: of {size} ranks it must be one from 0 to {size - 1}")
    return rank, size


def _pieces(
    linear: Linear, size: int, fused: Sequence[int] | None, multiple_of: int
) -> list[list[tuple[int, int]]]:
    """For each fused layer, the columns `[start, stop)` of every rank."""
    unit = _checked_multiple(multiple_of, BLOCK_N, COLUMNS_BECAUSE)
    n = linear.out_features
    widths = [n] if fused is None else as_ints("fused", fused, f"widths that sum up to n, {n}")
    if fused is not None and (sum(widths) != n or min(widths, default=0) < 1):
        raise ValueError(f"fused is {tuple(widths)}: it must be widths that sum up to n, {n}")
    pieces = []
    for start, stop in pairwise((0, *accumulate(widths))):
        cuts = even_cuts(stop - start, size, unit, "columns", COLUMNS_BECAUSE)
        pieces.append(list(pairwise((start, *(start + cut for cut in cuts), stop))))
    return pieces


def _checked_multiple(multiple_of: Any, unit: int, because: str) -> int:
    multiple = as_int("multiple_of", multiple_of)
    if multiple < 1 or multiple % unit:
        raise ValueError(f"multiple_of is {multiple}: {because}, so it must be a multiple of {unit}")
    return multiple


def _joined(parts: Sequence[Linear]) -> Linear:
    """One weight of parts side by side; all but the last end with a block."""
    if len(parts) == 1:
        return parts[0]
    xp = np if parts[0].device is None else cupy
    given = [part._given() for part in parts]
    joined = {}
    for name, axis in (("b_packed", 0), ("scales", 1), ("zeros", 1), ("bias", 0)):
        if given[0][name] is not None:
            joined[name] = xp.concatenate([each[name] for each in given], axis=axis)
    return parts[0]._again(**joined)
