"""Random problems: sizes, options, kernels, layouts and calls drawn together, and shrunk where one fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import pytest
from helpers.cases import DTYPES, Case, valid
from helpers.configs import paired_kernels
from helpers.gpu import Layout, Way, multiply

from cupy_w4a16 import choose_config
from cupy_w4a16._normalised import takes_normalised

CHUNKS, PROBLEMS = 8, 250  # 2,000 in all
SHRINKS = 300  # problems tried to find a simpler one that fails too
# Weights whose kernel the heuristic chooses; with more kinds there would be more kernels to compile.
USUAL = tuple(
    Case(1, 1, 1, group_size, dtype, zeros)
    for group_size, dtype, zeros in product((32, 64, 128), DTYPES, (None, "uint8"))
)


class Drawn(NamedTuple):
    """One problem: a product, how its arrays lie, and how it is asked for."""

    case: Case
    layout: Layout
    way: Way

    @property
    def named(self) -> Case:
        """The case with the configuration that it gets."""
        config = self.case.config or choose_config(self.case.problem, 132, self.way.pdl)
        return self.case.with_(config=config)


def drawn(rng: random.Random) -> Drawn:
    """A kernel or none, sizes of a few tiles with as many ragged as round ones, options, layout and way."""
    case = rng.choice((*paired_kernels(), *USUAL))
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
    way = Way(rng.random() < 0.3, rng.random() < 0.5, rng.random() < 0.3)
    problem = Drawn(case, layout, way)
    if takes_normalised(problem.named.config, case.problem):
        return problem._replace(way=replace(way, linear=False))  # its kernel is test_normalised.py's
    return problem


def simpler(problem: Drawn) -> Iterator[Drawn]:
    """The problem with its kernel named, with one size smaller, or with one option, stride or way plain."""
    case, layout, way = problem
    if case.config is None:
        yield problem._replace(case=problem.named)
    for name in ("m", "n", "k"):
        size = getattr(case, name)
        sizes = (s for s in sorted({1, size // 2, size - 1}) if 0 < s < size)
        yield from (problem._replace(case=replace(case, **{name: s})) for s in sizes)
    for name in ("bias", "alpha", "activation", "float32_out", "zeros", "dtype", "group_size", "seed"):
        yield from (problem._replace(case=plainer) for plainer in valid(_plainer(case, name)))
    for each in fields(layout):
        yield from (problem._replace(layout=plainer) for plainer in _plainer(layout, each.name))
    for each in fields(way):
        yield from (problem._replace(way=plainer) for plainer in _plainer(way, each.name))


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
    arguments = problem.case.arguments()
    try:
        c = multiply(problem.case, arguments, problem.layout, problem.way)
        problem.case.check(c, arguments)
    except AssertionError as error:
        return str(error)
    return None


def problems(chunk: int) -> list[Drawn]:
    rng = random.Random(chunk)
    return [drawn(rng) for _ in range(PROBLEMS)]


@cache
def kernels() -> tuple[Case, ...]:
    """A case for each kernel that is drawn."""
    cases = (problem.named for chunk in range(CHUNKS) for problem in problems(chunk))
    return tuple({case.kernel.name: case for case in cases}.values())


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("kernels", [kernels()], ids=["drawn"])  # seen by the fixture
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_problems_lie_within_the_derived_bounds(chunk: int, kernels: tuple[Case, ...]) -> None:
    for problem in problems(chunk):
        if failure(problem) is not None:
            simplest, how = shrunk(problem, failure)
            pytest.fail("\n".join(map(str, (*map(repr, simplest), how))))


def test_shrinking_finds_the_size_and_option_that_matter() -> None:
    def fails(problem: Drawn) -> str | None:
        case, layout, way = problem
        return "wrong" if case.n > 77 and layout.out_gap and way.pdl else None

    rng = random.Random(0)
    problem = next(p for p in iter(lambda: drawn(rng), None) if fails(p) and p.case.n > 100 and p.case.bias)
    (case, layout, way), how = shrunk(problem, fails)
    assert how == "wrong"
    assert (case.m, case.n, case.k, case.bias) == (1, 78, 1, False)
    assert layout == Layout(out_gap=problem.layout.out_gap)
    assert way == Way(pdl=True)


def test_kernel_of_the_heuristic_is_named_before_sizes_shrink() -> None:
    rng = random.Random(0)
    problem = next(p for p in iter(lambda: drawn(rng), None) if p.case.config is None and p.way.pdl)
    simplest, how = shrunk(problem, lambda p: "wrong" if p.named.config == problem.named.config else None)
    assert how == "wrong"
    assert simplest.case == Case(1, 1, 1, config=problem.named.config)
