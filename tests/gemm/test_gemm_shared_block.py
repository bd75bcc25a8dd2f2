"""The block of columns that two CTAs share, half its k each: where n, m and k end in or beside it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from helpers.cases import Case, valid
from helpers.configs import SHARING_CONFIGS
from helpers.gpu import DENSE, GROUP_LAYOUTS, Layout, multiply

from cupy_w4a16 import GemmConfig

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("compiled")]

STAGED = GemmConfig(96, 192, split_k_cluster=2)  # columns 64 to 127 of every 192 are shared
DIRECT = GemmConfig(160, 8, split_k_cluster=2)  # columns 128 to 191 of every 320, four tokens a CTA


def check(case: Case, layout: Layout = DENSE) -> None:
    arguments = case.arguments()
    case.check(multiply(case, arguments, layout), arguments)


def edges(config: GemmConfig) -> list[Case]:
    """Every end of n in a pair's tile with every kind of k, tokens in turn."""
    shared, pair, half = config.tile_n - 32, config.cluster_tile_n, config.tile_m // 2
    columns = (
        1,
        shared,  # the block is past n
        shared + 1,
        shared + 40,
        shared + 64,  # the second CTA has nothing else
        shared + 65,
        pair,
        pair + shared + 8,
        1001,  # scales come element by element
    )
    # No whole block, one (which the second CTA multiplies), an odd number, and stages used again.
    depths = (16, 128, 328, 2200)
    # The second CTA has none of the tokens, one, or all but one.
    tokens = (1, half, half + 1, config.tile_m - 1, config.tile_m, config.tile_m + half + 1)
    return [
        Case(tokens[(i + j) % len(tokens)], n, k, config=config, seed=i + j)
        for (i, n), (j, k) in product(enumerate(columns), enumerate(depths))
    ]


@pytest.mark.parametrize("case", [case for config in SHARING_CONFIGS for case in edges(config)], ids=str)
def test_edges_in_and_beside_the_shared_block(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    valid(
        Case(5, n, 300, 32, zeros=zeros, bias=True, config=DIRECT)
        for zeros in ("float", "float32", "uint8", "int32")
        for n in (136, 133, 320 + 176, 320 + 131)
    ),
    ids=str,
)
@pytest.mark.parametrize(
    "layout",
    [*GROUP_LAYOUTS, Layout(a_gap=4)],  # rows of 608 bytes: read in place
    ids=str,
)
def test_nan_past_the_ends_of_inputs_does_not_reach_the_shared_block(case: Case, layout: Layout) -> None:
    check(case, layout)


@pytest.mark.parametrize(
    "case",
    [Case(m, n, 400, bias=True, config=STAGED) for m, n in ((101, 264), (293, 264), (101, 259))],
    ids=str,
)
@pytest.mark.parametrize("float32_out", [False, True])
@pytest.mark.parametrize(
    "layout",
    [DENSE, Layout(out_gap=8), Layout(out_gap=5), Layout(out_gap=16, out_offset=8), Layout(out_offset=2)],
    ids=str,
)
def test_neither_cta_writes_beside_out(case: Case, float32_out: bool, layout: Layout) -> None:
    check(case.with_(float32_out=float32_out), layout)


@pytest.mark.parametrize("case", [Case(293, 330, 400, config=STAGED)], ids=str)
@pytest.mark.parametrize("group", [0, 3], ids=["of the first half", "of the second half"])
@pytest.mark.parametrize("column", [63, 64, 127, 128, 256])
def test_infinite_scale_and_nan_in_either_half_of_k_stay_there(case: Case, group: int, column: int) -> None:
    arguments = case.arguments()
    clean = multiply(case, arguments)
    a, scales = arguments.a.copy(), arguments.scales.copy()
    a[150, 128 * group + 3], scales[group, column] = np.nan, np.inf
    c = multiply(case, arguments._replace(a=a, scales=scales))
    assert np.isnan(c[150]).all()
    assert not np.isfinite(c[:, column]).any()
    c[150], c[:, column] = clean[150], clean[:, column]
    np.testing.assert_array_equal(c, clean)
