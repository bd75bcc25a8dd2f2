"""Host time of a call: how long Python takes to queue it, which at one token is longer than the kernel."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cupy

from .._config import GemmProblem
from .._gemm import gemm
from . import timing, variants
from .report import title
from .weights import Weights

CALLS, ROUNDS = 1000, 7


def host_costs(problem: GemmProblem) -> dict[str, float]:
    """µs a call of `gemm`, `Linear` and `cupy.matmul` with `out=`: the best of `ROUNDS` x `CALLS` queued."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        calls = _calls(Weights(problem, expect=False))
        for call in calls.values():
            call()
        best = dict.fromkeys(calls, float("inf"))
        collecting = gc.isenabled()
        gc.disable()
        try:
            for _ in range(ROUNDS):
                for name, call in calls.items():
                    timing.wait(stream, name)
                    best[name] = min(best[name], _queue(call))
        finally:
            if collecting:
                gc.enable()
        timing.wait(stream, "the last call")
    return best


def format_costs(problem: GemmProblem, costs: dict[str, float]) -> str:
    """One aligned line a call."""
    lines = [f"Host time at M={problem.m} {title(problem)}, µs a call: best of {ROUNDS} x {CALLS}"]
    width = max(map(len, costs))
    lines += [f"  {name:<{width}}{us:>8.2f}" for name, us in costs.items()]
    return "\n".join(lines)


def _calls(weights: Weights) -> dict[str, Callable[[], Any]]:
    problem, first = weights.problem, weights.sets[0]
    a, w = weights.a, weights.plain()[0]
    out = cupy.empty((problem.m, problem.n), a.dtype)
    calls: dict[str, Callable[[], Any]] = {
        "gemm(out=)": partial(gemm, a, first.b_packed, first.scales, first.zeros, problem.group_size, out=out)
    }
    calls["Linear(out=)"] = partial(variants.linears(weights)[0], a, out=out)
    calls["Linear(out=), dependent launch"] = partial(variants.linears(weights, pdl=True)[0], a, out=out)
    calls["cupy.matmul(out=)"] = partial(cupy.matmul, a, w, out=out)
    return calls


def _queue(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6
