"""Random problems: sizes, options, kernels and layouts drawn together, and shrunk where one fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from helpers.cases import Case, valid
from helpers.configs import paired_kernels
from helpers.gpu import Layout, multiply

CHUNKS, PROBLEMS = 8, 250  # 2,000 in all
SHRINKS = 300  # problems tried to find a simpler one that fails too

Drawn = tuple[Case, Layout]


def drawn(rng: random.Random) -> Drawn:
    """A kernel, sizes of a few tiles with as many ragged as round ones, options, and a layout."""
    case = rng.choice(paired_kernels())
    group_size = rng.choice((128, 256, 1024, -1)) if case.group_size == 128 else case.group_size
    zeros = rng.choice(("uint8", "int8")) if case.zeros == "uint8" else case.zeros
    case = case.with_(
        m=rng.choice((rng.randint(1, 24), rng.randint(1, 270))),
        n=rng.choice((rng.randint(1, 420), 8 * rng.randint(1, 50))),
        k=rng.choice(
            (rng.randint(1, 150), rng.randint(1, 700), 8 * rng.randint(1, 90), rng.randint(900, 1500))
        ),
        group_size=group_size,
        zeros=zeros,
        bias=rng.random() < 0.5,
        alpha=rng.choice((1.0, -2.5, 0.0)),
        seed=rng.randrange(100),
    )
    layout = Layout(
        a_offset=rng.choice((0, 0, 8, 1)),
        a_gap=rng.choice((0, -case.k % 8, 8, 3)),
        a_step=rng.choice((1, 1, 1, 1, 2)),
        a_by_columns=rng.random() < 0.1,
        b_gap=rng.choice((0, 1)),
        group_offset=rng.choice((0, 0, 16, 1)),
        group_gap=rng.choice((0, 0, 64, 5)),
        bias_offset=rng.choice((0, 1)),
        out_offset=rng.choice((0, 0, 8, 1)),
        out_gap=rng.choice((0, 0, 8, 3)),
    )
    return case, layout


def simpler(problem: Drawn) -> Iterator[Drawn]:
    """The problem with one size smaller, or one option or stride plain."""
    case, layout = problem
    for name in ("m", "n", "k"):
        size = getattr(case, name)
        yield from (
            (replace(case, **{name: s}), layout) for s in sorted({1, size // 2, size - 1}) if 0 < s < size
        )
    for name in ("bias", "alpha", "activation", "float32_out", "zeros", "dtype", "group_size", "seed"):
        yield from ((plainer, layout) for plainer in valid(_plainer(case, name)))
    for each in fields(layout):
        yield from ((case, plainer) for plainer in _plainer(layout, each.name))


def _plainer(x: Any, name: str) -> Iterator[Any]:
    default = next(each.default for each in fields(x) if each.name == name)
    if getattr(x, name) != default:
        yield replace(x, **{name: default})


def shrunk(problem: Drawn, fails: Callable[[Drawn], str | None]) -> tuple[Drawn, str | None]:
    """The simplest problem found by single steps that still fails, and how."""
    how, left, found = fails(problem), SHRINKS, True
    while found and how is not None:
        found = False
        for candidate in simpler(problem):
            left -= 1
            if left < 0:
                return problem, how
            if (its := fails(candidate)) is not None:
                problem, how, found = candidate, its, True
                break
    return problem, how


def failure(problem: Drawn) -> str | None:
    """How the product is wrong, or None. (Errors of the GPU are raised: nothing runs after one.)"""
    case, layout = problem
    arguments = case.arguments()
    try:
        case.check(multiply(case, arguments, layout), arguments)
    except AssertionError as error:
        return str(error)
    return None


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("kernels", [paired_kernels()], ids=["paired"])  # seen by the fixture
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_problems_lie_within_the_derived_bounds(chunk: int, kernels: tuple[Case, ...]) -> None:
    rng = random.Random(chunk)
    for _ in range(PROBLEMS):
        problem = drawn(rng)
        if failure(problem) is not None:
            (case, layout), how = shrunk(problem, failure)
            pytest.fail(f"{case!r}\n{layout!r}\n{how}")


def test_shrinking_finds_the_size_and_option_that_matter() -> None:
    rng = random.Random(0)
    problem = next(p for p in iter(lambda: drawn(rng), None) if p[0].n > 100 and p[1].out_gap and p[0].bias)
    (case, layout), how = shrunk(problem, lambda p: "wrong" if p[0].n > 77 and p[1].out_gap else None)
    assert how == "wrong"
    assert (case.m, case.n, case.k, case.bias) == (1, 78, 1, False)
    assert layout == Layout(out_gap=problem[1].out_gap)
