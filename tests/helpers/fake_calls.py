"""Arguments of calls that the fake driver sees: arrays at addresses that nothing reads."""

from __future__ import annotations

from typing import Any

from cupy_w4a16 import Linear
from helpers.fake_driver import on_gpu

A, B, SCALES, ZEROS, BIAS, OUT = (1 << 40, 2 << 40, 3 << 40, 4 << 40, 5 << 40, 6 << 40)
M, N, K, GROUP = 48, 512, 1024, 128


def arrays(m: int = M, n: int = N, k: int = K, group: int = GROUP, dtype: Any = "f2") -> dict[str, Any]:
    """Good arguments of `gemm`, on no GPU."""
    rows = -(-k // group)
    return {
        "a": on_gpu((m, k), dtype, A),
        "b_packed": on_gpu((-(-n // 64), -(-k // 128), 1024), "i4", B),
        "scales": on_gpu((rows, n), dtype, SCALES),
        "group_size": group,
        "out": on_gpu((m, n), dtype, OUT),
    }


def on_a_gpu(n: int = 512, k: int = 1024, **options: Any) -> Linear:
    """A `Linear` (k -> n) at these addresses."""
    b_packed = on_gpu((-(-n // 64), k // 128, 1024), "i4", B)
    return Linear(b_packed, on_gpu((k // 128, n), "f2", SCALES), **{"group_size": 128, **options})


def activations(m: int = 3, k: int = 1024, at: int = A, **where: Any) -> Any:
    return on_gpu((m, k), "f2", at, **where)


def result(m: int = 3, n: int = 512, at: int = OUT, **where: Any) -> Any:
    return on_gpu((m, n), "f2", at, **where)
