"""A product without rounding: what is the same in any order of summation must be the same to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy_w4a16 import Linear, pack


def whole_numbers(
    n: int = 200,
    k: int = 640,
    group_size: int = 128,
    zeros: str | bool | None = None,
    *,
    m: int = 3,
    half: Any = np.float16,
    **options: Any,
) -> tuple[Any, Linear]:
    """Activations and a `Linear`, on NumPy: float32 sums are exact in any order, and too large for float16.

    `zeros` is their dtype, True for uint8; `half` that of activations, scales and bias.
    """
    rng = np.random.default_rng(1)
    rows = 1 if group_size == -1 else -(-k // group_size)
    q = rng.integers(0, 16, (k, n), dtype=np.uint8)
    scales = rng.choice([-1, 1, 2], (rows, n)).astype(half)
    zero = None
    if zeros:
        zero = rng.integers(0, 17, (rows, n), dtype=np.uint8).astype("uint8" if zeros is True else zeros)
    options = {"bias": rng.integers(-4, 5, n).astype(half), **options}
    a = rng.integers(-30, 31, (m, k)).astype(half)
    return a, Linear(pack(q), scales, zero, group_size, k=k, **options)
