"""The dtypes the package speaks, and which array module an array belongs to."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)

#: Activations, scales, bias and dequantised weights.
HALF_DTYPES = (FLOAT16, BFLOAT16)
#: Results of a product.
OUT_DTYPES = (FLOAT16, BFLOAT16, FLOAT32)
#: Integer zero points, and codes before packing (values 0..16 and 0..15).
INTEGER_DTYPES = tuple(np.dtype(t) for t in (np.uint8, np.int8, np.int32))


def xp_of(x: Any, name: str = "the array") -> ModuleType:
    """``numpy`` for a NumPy array, ``cupy`` for a CuPy array; a TypeError naming ``name`` for anything else.

    NumPy is looked at first, so that NumPy users never initialise CUDA (importing CuPy does not either).
    """
    if isinstance(x, np.ndarray):
        return np
    import cupy

    if isinstance(x, cupy.ndarray):
        return cupy
    raise TypeError(
        f"{name} is a {type(x).__module__}.{type(x).__qualname__}; a numpy.ndarray or cupy.ndarray is needed: "
        f"pass numpy.asarray(...), or cupy.from_dlpack(...) for another library's GPU array"
    )


def dtype_of(dtype: Any, allowed: tuple[np.dtype[Any], ...], name: str = "dtype") -> np.dtype[Any]:
    """``dtype`` (a name, a type or a NumPy dtype) as a member of ``allowed``; a TypeError naming ``name`` otherwise."""
    for known in allowed:
        if dtype == known.name:  # NumPy alone does not know the string "bfloat16"
            return known
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found not in allowed:
        raise TypeError(f"{name} is {dtype!r}; allowed are {', '.join(known.name for known in allowed)}")
    return found
