"""How much memory a call needs at once, beside what was there before and what it returns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def temporary_bytes(xp: Any, call: Callable[[], Iterable[Any]]) -> int:
    """The peak during `call`, which returns arrays of `xp` (or None among them), less these.

    On CuPy what its memory pool took from the GPU: results may lie in memory that was temporary before, so it
    can be too little by the size of the results, never too much.
    """
    if xp is not np:
        pool = xp.cuda.MemoryPool()
        with xp.cuda.using_allocator(pool.malloc):
            results = list(call())
            return int(pool.total_bytes()) - _bytes(results)
    tracemalloc.start()
    try:
        results = list(call())
        return tracemalloc.get_traced_memory()[1] - _bytes(results)
    finally:
        tracemalloc.stop()


def _bytes(results: list[Any]) -> int:
    return sum(int(x.nbytes) for x in results if x is not None)
