"""The dtypes the package speaks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)

#: Activations, scales, bias and dequantized weights.
HALF_DTYPES = (FLOAT16, BFLOAT16)
#: Results of a product.
OUT_DTYPES = (FLOAT16, BFLOAT16, FLOAT32)
#: Integer zero points, and codes before packing (values 0..16 and 0..15).
INTEGER_DTYPES = tuple(np.dtype(t) for t in (np.uint8, np.int8, np.int32))
#: Of an element, by the name that a problem has for its dtype.
ITEM_BYTES = {dtype.name: dtype.itemsize for dtype in (*OUT_DTYPES, *INTEGER_DTYPES)}


def dtype_of(dtype: Any, allowed: tuple[np.dtype[Any], ...], name: str = "dtype") -> np.dtype[Any]:
    """``dtype`` (a name, a type or a NumPy dtype) as a member of ``allowed``; otherwise a TypeError."""
    for known in allowed:
        if dtype == known.name:  # NumPy alone does not know the string "bfloat16"
            return known
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found not in allowed:
        raise TypeError(f"{name} is {dtype!r}; allowed are {', '.join(map(str, allowed))}")
    return found
