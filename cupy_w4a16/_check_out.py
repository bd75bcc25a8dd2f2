"""The result: its dtype, and the `out` that is to take it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import cupy
import numpy as np

from ._arrays import row_bytes_of, share_bytes
from ._dtypes import FLOAT32, dtype_of


def dtype_of_result(dtype: Any, out: Any, a_dtype: np.dtype[Any], xp: ModuleType) -> np.dtype[Any]:
    """The dtype of the result: `dtype`, else that of `out`, else that of `a`; float32 or that of `a`."""
    allowed = (a_dtype, FLOAT32)
    wanted = None
    if dtype is not None:
        try:
            wanted = dtype_of(dtype, allowed)
        except TypeError:
            raise TypeError(
                f"dtype is {dtype!r}: the result of a {a_dtype} a is {a_dtype} (the default) or float32; "
                f"for another, cast the result: gemm(..., dtype='float32').astype(...)"
            ) from None
    if out is None:
        return wanted or a_dtype
    if out.dtype not in allowed or (wanted is not None and out.dtype != wanted):
        asked = f"{a_dtype} (that of a) or float32" if wanted is None else f"{wanted}, which dtype= asks for"
        new = f"{xp.__name__}.empty(out.shape, {(wanted or a_dtype).name!r})"
        raise TypeError(
            f"out is {out.dtype}: it must be {asked}; pass {'dtype=None or ' if wanted is not None else ''}"
            f"an out made by {new}, nothing is cast silently"
        )
    return a_dtype if out.dtype == a_dtype else FLOAT32


def check_writable(out: Any) -> None:
    """ValueError for an `out` that says it is read-only, by NumPy's flag or the CUDA array interface's."""
    if out is None or isinstance(out, cupy.ndarray):
        return
    if isinstance(out, np.ndarray):
        read_only = not out.flags.writeable
    else:
        try:
            read_only = bool(out.__cuda_array_interface__["data"][1])
        except Exception:  # not our business here: as_arrays says what is wrong with it, if anything is
            read_only = False
    if read_only:
        raise ValueError("out is read-only: pass an array that can be written, or leave out=None")


def row_bytes_of_out(out: Any, shape: tuple[int, ...], m: int) -> int:
    """Bytes from one row of `out` to the next; ValueError unless one stride walks its (..., n) rows."""
    if out.shape != shape:
        raise ValueError(f"out is of shape {out.shape}, the result of {shape}: pass an out of that shape")
    n, itemsize = shape[-1], out.dtype.itemsize
    dense = n * itemsize
    if not m or not n:
        return dense
    strides = out.strides
    row = strides[0] if len(shape) == 2 else row_bytes_of(shape, strides)
    if m == 1:
        row = dense
    if row is None or row < dense or row % itemsize or (n > 1 and strides[-1] != itemsize):
        raise ValueError(
            f"out of shape {shape} has strides {strides}: its rows must be dense and one positive stride "
            "apart, as in a C-contiguous array or out[:, i:j] of one; pass such an out, and copy from it"
        )
    return row


def check_apart(out: Any, **inputs: Any) -> None:
    """ValueError where `out` shares a byte with an input: kernels read inputs while they write `out`.

    The comparison is exact, strides and all: rows of `out` between those of `a` in one buffer pass.
    (In the rare case of strides too intricate to decide in bounded time, arrays count as sharing.)
    """
    for name, x in inputs.items():
        if x is not None and share_bytes(out, x):
            raise ValueError(
                f"out overlaps {name} in memory, but inputs are read while out is written: pass an out of "
                "its own, or leave out=None"
            )
