"""What the kernels compute, for every configuration: to the bit where it can be, else against float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.cases import DTYPES, ZEROS, Case, valid, wide_scales
from helpers.configs import CONFIGS, KERNEL_OPTIONS, SHARING_CONFIGS
from helpers.covering import Row, covering, pairs_of
from helpers.gpu import Placed, multiply, poisoned

from cupy_w4a16 import choose_config, dequantize, gemm, quantize
from cupy_w4a16._config import NAMED_CONFIGS
from cupy_w4a16.bench.shapes import MODEL_SHAPES

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("compiled")]

NAMED = tuple(NAMED_CONFIGS.values())
LARGEST_PAIR = max(SHARING_CONFIGS, key=lambda config: config.tile_n * config.tile_m)
# Kinds of weight that every configuration meets, beside integer zeros of small groups.
KINDS: tuple[Row, ...] = ({}, {"group_size": 64}, {"zeros": "uint8"}, {"dtype": "bfloat16"})
FLOAT_ZEROS = tuple(product(DTYPES, ("float", "float32")))  # one of these for every fourth configuration
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096)

# --- identity activations: the dequantized weights themselves ---


def kinds_of_configs() -> Iterator[Row]:
    for i, config in enumerate(CONFIGS):
        yield from ({"config": config} | kind for kind in KINDS)
        small = Case(1, 1, 1, 32, zeros="uint8", config=config)
        yield {"config": config, "zeros": "uint8", "group_size": 32 if valid([small]) else 64}
        if i % 4 == 0:
            dtype, zeros = FLOAT_ZEROS[i // 4 % len(FLOAT_ZEROS)]
            yield {"config": config, "dtype": dtype, "zeros": zeros}


def heuristic_picks() -> Iterator[Row]:
    """All that `gemm` chooses for the usual weights of models' layers, by itself and dependent."""
    kinds = product((32, 64, 128), DTYPES, (None, "uint8"))
    for (group_size, dtype, zeros), m, shape in product(kinds, TOKENS, MODEL_SHAPES):
        weight = {"group_size": group_size, "dtype": dtype, "zeros": zeros}
        problem = Case(m, *shape, **weight).problem
        yield from ({"config": choose_config(problem, 132, pdl)} | weight for pdl in (False, True))


def spread_kinds() -> list[Row]:
    """Pairs of what a weight may be, and each with the kinds of configurations."""
    weights = {"group_size": (32, 64, 128, 256, -1), "dtype": DTYPES, "zeros": ZEROS}
    kinds = ("family", "shares_block")
    return covering(
        {"config": CONFIGS} | weights,
        [*pairs_of(weights), *product(kinds, weights)],
        is_valid=lambda row: bool(valid([Case(1, 1, 1, **row)])),
        traits=lambda row: {kind: getattr(row["config"], kind) for kind in kinds},
    )


def identity_cases() -> list[Case]:
    rows = chain(kinds_of_configs(), heuristic_picks(), spread_kinds())
    cases = dict.fromkeys(valid(Case(416, 336, 416, **row) for row in rows))
    # 336 columns: bulk copies serve all dtypes of zeros; 328: not uint8; 331: no bulk copy, no TMA store.
    return [case.with_(n=(336, 328, 331)[i % 3], seed=i) for i, case in enumerate(cases)]


@pytest.mark.parametrize("case", identity_cases(), ids=str)
def test_identity_activations_give_the_dequantized_weights(case: Case) -> None:
    arguments = case.arguments()
    scales = wide_scales(case, arguments.scales.shape)
    arguments = arguments._replace(a=np.eye(case.k, dtype=case.np_dtype), scales=scales)
    w = dequantize(arguments.b_packed, scales, arguments.zeros, case.group_size, k=case.k)
    assert np.isfinite(w.astype(np.float32)).all()
    c = multiply(case, arguments)
    wrong = np.argwhere(ulps_apart(c, w) > (2 if case.zeros in ("float", "float32") else 0))
    assert not wrong.size, f"{len(wrong)} weights differ, the first (row, column) {wrong[0]}"


def ulps_apart(x: Any, y: Any) -> Any:
    """Steps between numbers of 16 bits; -0 is a step from 0, and NaN far from all."""

    def place(z: Any) -> Any:
        bits = z.view(np.int16).astype(np.int32)
        return np.where(bits < 0, -32769 - bits, bits)

    return np.where(np.isnan(x.astype(np.float32)), 1 << 20, np.abs(place(x) - place(y)))


# --- random problems against float64 ---

M = (1, 2, 7, 8, 16, 33, 64, 100, 128, 257, 1024, 4096)
N = (1, 8, 1000, 4104)
K = (16, 100, 4160, 4096)


def check(case: Case) -> None:
    arguments = case.arguments()
    case.check(multiply(case, arguments), arguments)


@pytest.mark.parametrize(
    "case",
    [
        Case(
            m, n, K[(i + j) % 4], dtype=DTYPES[j % 2], config=(None, *NAMED)[(i + 2 * j) % 3], seed=4 * i + j
        )
        for i, m in enumerate(M)
        for j, n in enumerate(N)
    ],
    ids=str,
)
def test_ragged_sizes(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    [
        Case(40, 200, k, group_size, config=config)
        for config in NAMED
        for group_size, k in ((256, 700), (1024, 1500), (-1, 700), (4096, 200), (32, 20), (64, 1))
    ],
    ids=str,
)
def test_groups_larger_than_a_stage_and_than_k(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case", [Case(4096, 4096, 4096, config=config) for config in (*NAMED, LARGEST_PAIR)], ids=str
)
def test_every_tile_of_a_full_size_problem(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    # 140 tiles for 132 multiprocessors; an odd n has no bulk copies of scales and no TMA store.
    valid(
        Case(24, 140 * c.ctas_per_sm * c.tile_n - (8, 5)[i % 2], 144, config=c) for i, c in enumerate(CONFIGS)
    ),
    ids=str,
)
def test_several_tiles_for_one_cta(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    valid(Case(c.tile_m + 9, c.cluster_tile_n + 24, 2600, config=c) for c in CONFIGS),
    ids=str,
)
def test_ring_of_stages_goes_round(case: Case) -> None:
    check(case)


def option_cases() -> list[Case]:
    options = {"config": (None, *NAMED)} | KERNEL_OPTIONS | {"bias": (False, True), "alpha": (1.0, -0.75)}
    rows = covering(options, pairs_of(options))
    return valid(Case(70, (200, 203)[i % 2], 300, seed=i, **row) for i, row in enumerate(rows))


@pytest.mark.parametrize("case", option_cases(), ids=str)
def test_bias_alpha_activation_and_dtype_of_the_result(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [Case(100, 300, 2048, config=config) for config in NAMED], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_error_of_float16_is_that_of_two_roundings(case: Case, symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((case.m, case.k), np.float32).astype(np.float16)
    weight = quantize(rng.standard_normal((case.k, case.n), np.float32), symmetric=symmetric)
    exact = a.astype(float) @ dequantize(*weight, k=case.k, dtype="float32").astype(float)
    case = case.with_(zeros=None if symmetric else "uint8")
    c = multiply(case, case.arguments()._replace(a=a, b_packed=weight[0], scales=weight[1], zeros=weight[2]))
    assert np.linalg.norm(c - exact) / np.linalg.norm(exact) <= 2.8e-4


# --- the same bits each time ---


@pytest.mark.parametrize("case", valid(Case(100, 1000, 1000, config=c) for c in (None, *CONFIGS)), ids=str)
def test_a_hundred_runs_give_the_same_bits(case: Case) -> None:
    a, b_packed, scales, *_ = (None if x is None else cupy.asarray(x) for x in case.arguments())
    out = Placed(poisoned(case))
    first = None
    for _ in range(100):
        gemm(a, b_packed, scales, out=out.array, config=case.config)
        c = out.download().view(np.uint16)
        first = c if first is None else first
        assert (c == first).all()


@pytest.mark.parametrize(
    "case", [Case(5, 200, 300, config=NAMED[0], dtype=dtype) for dtype in DTYPES], ids=str
)
@pytest.mark.parametrize("float32_out", [False, True])
def test_result_without_out_is_a_new_array(case: Case, float32_out: bool) -> None:
    case = case.with_(float32_out=float32_out)
    arguments = case.arguments()
    a, b_packed, scales, *_ = (None if x is None else cupy.asarray(x) for x in arguments)
    c = gemm(a, b_packed, scales, dtype=case.out_dtype, config=case.config)
    assert isinstance(c, cupy.ndarray)
    assert c.flags.c_contiguous
    case.check(cupy.asnumpy(c), arguments)
