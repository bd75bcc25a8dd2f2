"""Full-size products, repeated with nothing between, compared on the GPU: races that small ones don't show.

Results lie in poison, one array a launch, and all launches with one configuration must give the same bits:
`gemm`'s and `Linear`'s, which reads normalised scales where it can, launched plainly and dependent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count, product
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.configs import CONFIGS, NORMALISED_CONFIGS
from helpers.gpu import POISON

from cupy_w4a16 import GemmConfig, GemmProblem, Linear, compile_kernels, gemm
from cupy_w4a16._kernels import kernel_for, unit_for
from cupy_w4a16.bench.device import worst_tile_error
from cupy_w4a16.bench.shapes import MODEL_SHAPES, TOKENS, Shape
from cupy_w4a16.bench.sweep import error_limit
from cupy_w4a16.bench.weights import Weights

pytestmark = pytest.mark.gpu

SMS, WAVES = 132, 3
RUNS = 6


def loaded(config: GemmConfig) -> GemmProblem:
    """The least problem, ragged in n, m and k, of three times as many tiles as the GPU holds CTAs."""
    tokens = config.tile_m * config.cluster_m
    problems = (GemmProblem(tiles * tokens - tokens // 3, 4104, 8200) for tiles in count(1))
    least = WAVES * SMS * config.ctas_per_sm
    return next(p for p in problems if config.clusters(p) * config.cluster_size >= least)


def calls(weights: Weights, m: int, config: GemmConfig | None) -> dict[tuple[str, bool], Callable[..., Any]]:
    """Ways to make the product of the first set with `m` tokens; each takes `out`."""
    a, problem, first = weights.a[:m], weights.problem, weights.sets[0]
    weight = first.b_packed, first.scales, first.zeros, problem.group_size

    def by_gemm(pdl: bool) -> Callable[..., Any]:
        return lambda out: gemm(a, *weight, out=out, config=config, pdl=pdl)

    def by_linear(pdl: bool) -> Callable[..., Any]:
        layer = Linear(*weight, k=problem.k, pdl=pdl)
        return lambda out: layer(a, out, config)

    makers = {"gemm": by_gemm, "Linear": by_linear}
    return {(name, pdl): make(pdl) for (name, make), pdl in product(makers.items(), (False, True))}


def results(call: Callable[..., Any], problem: GemmProblem, runs: int) -> Any:
    """`runs` results, launched one behind the other."""
    outs = cupy.empty((runs, problem.m, problem.n), np.dtype(problem.dtype))
    outs.data.memset_async(POISON, outs.nbytes)
    for out in outs:
        call(out)
    return outs


def assert_same_bits(found: Iterable[Any], first: Any) -> None:
    for out in found:
        assert bool((out.view(np.uint16) == first.view(np.uint16)).all())


@pytest.fixture(scope="module")
def compiled() -> None:
    kernels = [kernel_for(config, loaded(config)) for config in CONFIGS]
    kernels += [replace(kernel_for(config, loaded(config)), normalised=True) for config in NORMALISED_CONFIGS]
    compile_kernels(map(unit_for, kernels), progress=False)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_configuration_under_load(config: GemmConfig) -> None:
    problem = loaded(config)
    weights = Weights(problem)
    found = {way: results(call, problem, RUNS) for way, call in calls(weights, problem.m, config).items()}
    first = found["gemm", False][0]
    assert worst_tile_error(first, weights.expected(problem.m)) <= error_limit(problem)
    for outs in found.values():
        assert_same_bits(outs, first)


@pytest.mark.parametrize("shape", MODEL_SHAPES, ids=str)
def test_every_point_of_the_benchmark_with_the_configuration_that_a_call_gets(shape: Shape) -> None:
    weights = Weights(GemmProblem(max(TOKENS), *shape))
    for m in TOKENS:
        problem = replace(weights.problem, m=m)
        for way, call in calls(weights, m, None).items():
            outs = results(call, problem, RUNS if m <= 1024 else 2)
            error = worst_tile_error(outs[0], weights.expected(m))
            assert error <= error_limit(problem), f"{way} at m={m}"
            assert_same_bits(outs[1:], outs[0])
