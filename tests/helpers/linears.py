"""A `Linear` with activations for it, on NumPy and on a GPU."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from cupy_w4a16 import Linear, pack
from cupy_w4a16.testing import make_problem

M, N, K = 5, 200, 384


def made(zeros: str | None = None, group_size: int = 128, k: int = K, **options: Any) -> tuple[Any, Linear]:
    """Activations and a `Linear` on NumPy of whole numbers: sums in any order are the same."""
    rng = np.random.default_rng(1)
    rows = 1 if group_size == -1 else -(-k // group_size)
    q = rng.integers(0, 16, (k, N), dtype=np.uint8)
    scales = rng.choice([-1, 1, 2], (rows, N)).astype(np.float16)
    zero = None if zeros is None else rng.integers(0, 17, (rows, N)).astype(zeros)
    bias = rng.integers(-4, 5, N).astype(np.float16)
    a = rng.integers(-1, 2, (M, k)).astype(np.float16)
    return a, Linear(pack(q), scales, zero, group_size, k=k, bias=bias, **{"dtype": "float32", **options})


def real(m: int = 16, **options: Any) -> tuple[Any, Linear]:
    """Activations and a `Linear` (512 -> 512) on the GPU; made on the host, as CuPy compiles slowly."""
    a, *weight, group_size = make_problem(m, 512, 512)
    return cupy.asarray(a), Linear(*map(cupy.asarray, weight[:2]), None, group_size, k=512, **options)


def assert_same(c: Any, expected: Any) -> None:
    np.testing.assert_array_equal(cupy.asnumpy(c), cupy.asnumpy(expected))
