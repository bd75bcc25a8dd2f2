"""A `Linear` with activations for it, on NumPy and on a GPU."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from cupy_w4a16 import Linear
from cupy_w4a16.testing import make_problem

from .whole_numbers import whole_numbers

M, N, K = 5, 200, 384


def made(zeros: str | None = None, group_size: int = 128, k: int = K, **options: Any) -> tuple[Any, Linear]:
    """Activations and a `Linear` on NumPy whose results hold exact sums: parts add up to the whole."""
    return whole_numbers(N, k, group_size, zeros, m=M, **{"dtype": "float32", **options})


def real(m: int = 16, **options: Any) -> tuple[Any, Linear]:
    """Activations and a `Linear` (512 -> 512) on the GPU; made on the host, as CuPy compiles slowly."""
    a, *weight, group_size = make_problem(m, 512, 512)
    return cupy.asarray(a), Linear(*map(cupy.asarray, weight[:2]), None, group_size, k=512, **options)


def assert_same(c: Any, expected: Any) -> None:
    np.testing.assert_array_equal(cupy.asnumpy(c), cupy.asnumpy(expected))
