"""Tensor-parallel layers: a rank's part of a weight, and what the ranks do with their results."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import cupy
import numpy as np

from .._arrays import type_name
from .._dtypes import FLOAT32
from .._pack import BLOCK_N
from .._rounding import rounded
from ..linear import Linear
from .ranks import Communicator
from .shards import column_shard, column_widths, row_shard


class ColumnParallel:
    """A rank's columns of a layer: every rank gives the whole `a` and gets its part of the result's columns.

    Nothing is sent. With `gather` the parts are, and every rank gets the whole result.

    Parameters
    ----------
    linear : Linear, the whole weight, the same on every rank: on NumPy, as a file gives it, or on a GPU. The
        rank's part is copied to its GPU, and nothing keeps the whole
    comm : Communicator
    fused, multiple_of : as in `column_shard`
    gather : bool, whether results are put together; not with `fused`

    Attributes
    ----------
    linear : Linear, the rank's part

    Raises
    ------
    TypeError, ValueError
        As `column_shard` does, or `gather` and `fused` are both given.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import Linear, quantize
    >>> from cupy_w4a16.parallel import ColumnParallel, Communicator
    >>> alone = Communicator(rank=0, size=1, device=None, backend=None)
    >>> up = ColumnParallel(Linear(*quantize(np.eye(128, 192, dtype=np.float16))), alone)
    >>> up(np.ones((2, 128), np.float16)).shape
    (2, 192)
    """

    def __init__(
        self,
        linear: Linear,
        comm: Communicator,
        *,
        fused: Sequence[int] | None = None,
        multiple_of: int = BLOCK_N,
        gather: bool = False,
    ) -> None:
        if gather and fused is not None:
            raise ValueError(
                "gather and fused are both given: gathered columns would be each rank's pieces in turn, not "
                "the whole's order; leave one of them out"
            )
        shard = column_shard(linear, comm.rank, comm.size, fused=fused, multiple_of=multiple_of)
        self.linear = _placed(shard, comm)
        self._comm = comm
        self._widths = column_widths(linear, comm.size, multiple_of) if gather else None

    def __call__(self, a: Any, out: Any = None) -> Any:
        """This rank's columns of the result; all of them with `gather`.

        Parameters
        ----------
        a : array (..., k), the same on every rank
        out : array (..., n of this rank) as in `Linear`; not with `gather`, which borrows memory and
            whose result is always a new array: don't capture it in a CUDA graph

        Returns
        -------
        array (..., n of this rank), with `gather` (..., n)
        """
        if self._widths is None:
            return self.linear(a, out)
        if out is not None:
            raise ValueError("out is given, but a gathered result is always a new array: leave it out")
        xp, width = _library(self.linear), self.linear.out_features
        # NCCL gathers equal parts, so those of fewer columns are sent with a margin that nobody reads.
        part = xp.empty((*_lead(a), max(self._widths)), self.linear.dtype)
        self.linear(a, out=part[..., :width])
        parts = self._comm.all_gather(part)
        columns = [parts[rank, ..., :each] for rank, each in enumerate(self._widths)]
        return xp.concatenate(columns, axis=-1)

    def __repr__(self) -> str:
        return f"ColumnParallel(rank {self._comm.rank} of {self._comm.size}, {self.linear!r})"


class RowParallel:
    """A rank's rows of a layer: every rank gives its columns of `a` and gets the whole result.

    The ranks' results are summed in float32, and rounded once, after the sum: so the result lies within the
    bounds of a single GPU's (`testing.assert_gemm_close`), however many ranks there are. Sums of 16-bit parts
    would send half the bytes, but each would bring a rounding of its own and each addition another; with few
    tokens, where ranks help most, the time of an all-reduce does not depend on its bytes.

    Parameters
    ----------
    linear : Linear, the whole weight, as in `ColumnParallel`, without an activation and without `perm`
    comm : Communicator
    multiple_of : as in `row_shard`

    Attributes
    ----------
    linear : Linear, the rank's part, whose results are float32; the whole where there is one rank
    dtype : the dtype of results, that of the whole `linear`

    Raises
    ------
    TypeError, ValueError
        As `row_shard` does.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import Linear, quantize
    >>> from cupy_w4a16.parallel import Communicator, RowParallel
    >>> alone = Communicator(rank=0, size=1, device=None, backend=None)
    >>> down = RowParallel(Linear(*quantize(np.eye(256, 64, dtype=np.float16))), alone)
    >>> down(np.ones((2, 256), np.float16)).dtype
    dtype('float16')
    """

    def __init__(self, linear: Linear, comm: Communicator, *, multiple_of: int | None = None) -> None:
        shard = row_shard(linear, comm.rank, comm.size, multiple_of=multiple_of)
        self.linear = _placed(shard if comm.size > 1 else linear, comm)
        self.dtype = linear.dtype
        self._comm = comm

    def __call__(self, a: Any, out: Any = None, total: Any = None) -> Any:
        """The whole layer's result, the same bits on every rank.

        Parameters
        ----------
        a : array (..., k of this rank): the rank's columns of the whole's `a`; a slice of a result of
            `ColumnParallel` is read in place
        out : array (..., n) of `dtype` for the result
        total : C-contiguous float32 array (..., n) for the sum. Give both in a CUDA graph, which writes them
            at every replay, when memory that was only borrowed would be somebody else's

        Returns
        -------
        array (..., n) of `dtype`
            `out` where it was given.

        Raises
        ------
        TypeError, ValueError
            An array does not fit.
        """
        shape = (*_lead(a), self.linear.out_features)
        xp = _library(self.linear)
        _check_target(xp, "out", out, shape, self.dtype)
        _check_target(xp, "total", total, shape, FLOAT32)
        if total is not None and not total.flags.c_contiguous:
            raise ValueError("total is not C-contiguous, as NCCL needs it: pass an array that is")
        if self._comm.size == 1:
            return self.linear(a, out)
        total = self._comm.all_sum(self.linear(a, out=total))
        if out is None:
            return total if self.dtype == FLOAT32 else rounded(total, self.dtype)
        with np.errstate(over="ignore"):
            out[...] = total
        return out

    def __repr__(self) -> str:
        return f"RowParallel(rank {self._comm.rank} of {self._comm.size}, {self.linear!r})"


def _placed(shard: Linear, comm: Communicator) -> Linear:
    """A copy on the rank's GPU, so that the memory of the whole can go; on NumPy the shard as it is."""
    if comm.device is None:
        return shard
    with cupy.cuda.Device(comm.device):
        return shard._moved(cupy.array)


def _library(linear: Linear) -> ModuleType:
    return np if linear.device is None else cupy


def _lead(a: Any) -> tuple[int, ...]:
    return tuple(getattr(a, "shape", ()))[:-1]  # what is no array, `Linear` refuses


def _check_target(xp: ModuleType, name: str, x: Any, shape: tuple[int, ...], dtype: Any) -> None:
    if x is None:
        return
    if not isinstance(x, xp.ndarray):
        raise TypeError(f"{name} is a {type_name(x)}: it must be a {xp.__name__} array, like the weight's")
    if x.dtype != dtype:
        raise TypeError(f"{name} is {x.dtype}: it must be {dtype}")
    if x.shape != shape:
        raise ValueError(f"{name} is of shape {x.shape}: it must be {shape}")
