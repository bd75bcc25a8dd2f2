"""What is multiplied: the frozen description of one product, from which everything else is chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GemmProblem:
    """One product `c (m, n) = a (m, k) @ w (k, n)`: its sizes, and the dtypes by name.

    `group_size` is -1 (one group of all k) or a power of two from 32; `dtype` is that of `a`, "float16" or
    "bfloat16"; `zeros` is None (symmetric), "integer" or "float"; `out_dtype` is `dtype` or "float32".

    >>> GemmProblem(16, 4096, 4096, 128, "float16", None, "float16").n
    4096
    """

    m: int
    n: int
    k: int
    group_size: int
    dtype: str
    zeros: str | None
    out_dtype: str
