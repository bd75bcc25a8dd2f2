"""The bias of a layer, which files keep in other dtypes than its scales."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np


def bias_like(bias: Any, scales: Any, xp: ModuleType) -> Any:
    """A NumPy bias (None stays None) in the dtype of `scales`, rounded once, as an array of `xp`."""
    if bias is None:
        return None
    if bias.dtype.kind not in "fV":  # V: bfloat16, for NumPy
        raise TypeError(f"bias is {bias.dtype}: floats are needed")
    with np.errstate(over="ignore"):
        rounded = bias.astype(np.float32).astype(scales.dtype)
    if not np.isfinite(rounded.astype(np.float32)).all():
        raise ValueError(f"bias, {bias.dtype}, holds numbers that are no finite {scales.dtype}")
    return xp.asarray(rounded)
