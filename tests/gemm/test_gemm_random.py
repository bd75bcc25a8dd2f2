"""Random problems: sizes, options, kernels and layouts drawn together, and shrunk where one fails."""

from __future__ import annotations

import pytest
from helpers.cases import Case
from helpers.configs import paired_kernels
from helpers.gpu import Layout, multiply
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("compiled")]

CHUNKS, EXAMPLES = 8, 250  # 2,000 problems
TEMPLATES = paired_kernels()

# Small numbers shrink well; sizes around a tile and larger than a ring of stages are drawn often enough.
M = st.integers(1, 20) | st.integers(1, 270)
N = st.integers(1, 80) | st.integers(1, 45).map(lambda x: 8 * x) | st.integers(1, 400)
K = st.integers(1, 140) | st.integers(1, 80).map(lambda x: 8 * x) | st.integers(600, 1500)
LAYOUTS = st.builds(
    Layout,
    a_offset=st.sampled_from((0, 8, 1)),
    a_gap=st.sampled_from((0, 8, 3)),
    a_step=st.sampled_from((1, 1, 2)),
    a_by_columns=st.sampled_from((False, False, True)),
    b_gap=st.sampled_from((0, 1)),
    group_offset=st.sampled_from((0, 16, 1)),
    group_gap=st.sampled_from((0, 64, 5)),
    bias_offset=st.sampled_from((0, 1)),
    out_offset=st.sampled_from((0, 8, 1)),
    out_gap=st.sampled_from((0, 8, 3)),
)


@st.composite
def problems(draw: st.DrawFn) -> Case:
    case = draw(st.sampled_from(TEMPLATES))
    if case.group_size == 128:  # larger groups run the same kernel
        case = case.with_(group_size=draw(st.sampled_from((128, 256, 1024, -1))))
    if case.zeros == "uint8":
        case = case.with_(zeros=draw(st.sampled_from(("uint8", "int8"))))
    return case.with_(
        m=draw(M),
        n=draw(N),
        k=draw(K),
        bias=draw(st.booleans()),
        alpha=draw(st.sampled_from((1.0, -2.5, 0.0))),
        seed=draw(st.integers(0, 9)),
    )


@pytest.mark.parametrize("templates", [TEMPLATES], ids=["all"])  # the kernels to compile
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_problems_lie_within_the_derived_bounds(chunk: int, templates: tuple[Case, ...]) -> None:
    @seed(chunk)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=problems(), layout=LAYOUTS)
    def check(case: Case, layout: Layout) -> None:
        arguments = case.arguments()
        case.check(multiply(case, arguments, layout), arguments)

    check()
