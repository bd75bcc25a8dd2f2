"""Data-parallel batches: a `Linear` over the blocks of a Dask array."""

from __future__ import annotations

import uuid
from typing import Any

from .._arrays import type_name
from ..linear import Linear
from .shards import check_linear


def map_rows(x: Any, linear: Linear) -> Any:
    """`linear` over a Dask array of activations, a call for each block of rows; lazy, as Dask is.

    It is `x.map_blocks(linear, ...)` with the shape and dtype of the result. Blocks are arrays of the library
    that `linear` has: CuPy blocks of a NumPy array are `x.map_blocks(cupy.asarray)`, and back again
    `c.map_blocks(cupy.asnumpy)`. A `Linear` pickles, so workers in other processes, one a GPU as
    `dask_cuda.LocalCUDACluster` starts them, get one each, on the GPU that is current there.

    Parameters
    ----------
    x : Dask array (..., k) of the dtype of `linear.scales`, in one chunk along k
    linear : Linear

    Returns
    -------
    Dask array (..., n), chunked along the rows as `x` is

    Raises
    ------
    TypeError
        `x` is no Dask array, or `linear` no `Linear`.
    ValueError
        Its last axis is not `linear.in_features`, or is cut into chunks: products along k would have to be
        summed; `x.rechunk({-1: -1})` joins them.

    Examples
    --------
    >>> import dask.array as da  # doctest: +SKIP
    >>> x = da.ones((1_000_000, 4096), dtype="float16", chunks=(8192, 4096))  # doctest: +SKIP
    >>> c = map_rows(x.map_blocks(cupy.asarray), linear).mean(axis=0).compute()  # doctest: +SKIP
    """
    if not hasattr(x, "map_blocks") or not hasattr(x, "numblocks"):
        raise TypeError(
            f"x is a {type_name(x)}: it must be a Dask array (dask.array.from_array(x, chunks=...)); for a "
            "plain array call linear(x)"
        )
    check_linear(linear)
    if x.shape[-1:] != (linear.in_features,):
        raise ValueError(f"x is of shape {x.shape}: its last axis must be in_features, {linear.in_features}")
    if x.numblocks[-1] != 1:
        raise ValueError(
            f"x has {x.numblocks[-1]} chunks along its last axis, k: results are sums over all of it; pass "
            "x.rechunk({-1: -1})"
        )
    return x.map_blocks(
        linear,
        dtype=linear.dtype,
        chunks=(*x.chunks[:-1], (linear.out_features,)),
        meta=linear.scales[:0, :0].astype(linear.dtype),
        name=f"linear-{uuid.uuid4().hex}",  # Dask would make one up from all the weights' bytes
    )
