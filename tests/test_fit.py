"""Fitting the heuristic's table to measured times."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import pytest

from cupy_w4a16 import GemmConfig, GemmProblem, _costs, choose_config
from cupy_w4a16.__main__ import main
from cupy_w4a16._costs import SPLIT_MARGIN
from cupy_w4a16._heuristics import modelled_us, serves, tables
from cupy_w4a16.bench import BenchError
from cupy_w4a16.bench.fit import DISPENSABLE, Measured, choices, fit, read_times, table_row, thinned
from cupy_w4a16.bench.shapes import geometric_mean

SMS = 132
SHAPES = (
    (4096, 4096),
    (8192, 8192),
    (28672, 4096),
    (6144, 4096),
    (4096, 14336),
    (57344, 8192),
    (16384, 4096),
)
TOKENS = (1, 2, 12, 16, 48, 64, 128, 256, 1024)


# Tiles of a few sizes: fits take a while.
ALL_COSTS = next(tables(GemmProblem(1, 1, 1), pdl=False))
COSTS = {config: cost for config, cost in ALL_COSTS.items() if config.tile_m in (2, 16, 128)}
Table = dict[GemmProblem, dict[GemmConfig, Measured]]


def modelled() -> Table:
    """Times as the table in use has them, which a fit must find again."""

    def measured(config: GemmConfig, problem: GemmProblem) -> Measured:
        return Measured(modelled_us(config, COSTS[config], problem, SMS), COSTS[config].resident)

    problems = [GemmProblem(m, n, k) for n, k in SHAPES for m in TOKENS]
    return {p: {c: measured(c, p) for c in COSTS if serves(c, p)} for p in problems}


def test_fit_finds_the_times_it_was_given() -> None:
    times = modelled()
    costs = fit(times, SMS)
    assert len(costs) > 15
    assert all(x >= 0 for cost in costs.values() for x in cost)
    assert all(choice.times_as_long < SPLIT_MARGIN + 1e-4 for choice in choices(costs, times, SMS))


def twice(measured: Measured) -> Measured:
    return measured._replace(us=2 * measured.us)


def test_a_wrong_choice_is_counted() -> None:
    times = modelled()
    problem = GemmProblem(1024, 8192, 8192)
    costs = fit(times, SMS)
    chosen = choose_config(problem)
    times[problem][chosen] = twice(times[problem][chosen])  # what the model chooses was not the best
    worst = choices(costs, times, SMS)[0]
    assert worst.problem == problem
    assert worst.chosen == chosen != worst.best
    assert worst.times_as_long > 1.5


def test_where_a_configuration_is_far_from_chosen_it_need_not_be_right() -> None:
    # Twice as long as the model has it, where it takes five times as long as the best: a plain fit gives in.
    times = modelled()
    config = GemmConfig(256, 128)
    for problem, measured in times.items():
        if problem.m == 64:
            measured[config] = Measured(10 * min(each.us for each in measured.values()), 1)
    costs = fit(times, SMS)
    for problem, measured in times.items():
        if problem.m == 1024:
            model = modelled_us(config, costs[config], problem, SMS)
            assert model == pytest.approx(measured[config].us, rel=0.02)


def test_printed_rows_are_python_that_makes_the_table() -> None:
    rows = [table_row(config, cost) for config, cost in ALL_COSTS.items()]
    made = eval("{" + "".join(rows) + "}", vars(_costs))
    assert list(made) == list(ALL_COSTS)
    for config, cost in ALL_COSTS.items():
        assert made[config] == pytest.approx(cost, rel=1e-3)


def test_too_few_points_give_no_costs() -> None:
    problem = GemmProblem(256, 4096, 4096)
    assert fit({problem: {GemmConfig(256, 128): Measured(10.0, 1)}}, SMS) == {}


def test_what_no_choice_needs_is_left_out() -> None:
    times = modelled()
    slow, fast = GemmConfig(192, 128), GemmConfig(256, 128)
    for measured in times.values():
        if slow in measured:
            measured[slow] = twice(measured[fast])
    costs = fit(times, SMS)
    kept = thinned(costs, times, SMS)
    assert slow in costs
    assert slow not in kept
    assert set(kept) < set(costs)
    assert {choice.problem for choice in choices(kept, times, SMS)} == set(times)  # each has one that serves
    longer = [choice.times_as_long for choice in choices(kept, times, SMS)]
    assert geometric_mean(longer) < SPLIT_MARGIN * DISPENSABLE


def write(path: Path, times: Table, variant: str = "linear") -> None:
    rows = [
        {"name": variant, **asdict(problem), **asdict(config), **measured._asdict(), "fault": ""}
        for problem, found in times.items()
        for config, measured in found.items()
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_times_survive_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", modelled())
    assert read_times([str(tmp_path / "a.csv")]) == modelled()


def test_times_of_two_variants_are_not_mixed(tmp_path: Path) -> None:
    times: Table = {GemmProblem(256, 4096, 4096): {GemmConfig(256, 128): Measured(10.0, 1)}}
    write(tmp_path / "a.csv", times)
    write(tmp_path / "b.csv", times, "linear-pdl")
    with pytest.raises(BenchError, match="linear, linear-pdl"):
        read_times([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])


def test_command_prints_a_table_and_how_good_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.csv", modelled())
    assert main(["bench", "--fit", str(tmp_path / "a.csv")]) == 0
    printed = capsys.readouterr().out
    assert "    GemmConfig(256, 128): Cost(1, " in printed
    assert "    _mma(16, 2, 4, 2, 1): Cost(2, " in printed
    assert f"{len(SHAPES) * len(TOKENS)} points: 1.00" in printed


def test_too_few_points_make_an_empty_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.csv", {GemmProblem(256, 4096, 4096): {GemmConfig(256, 128): Measured(10.0, 1)}})
    assert main(["bench", "--fit", str(tmp_path / "a.csv")]) == 0
    assert not capsys.readouterr().out.strip()


@pytest.mark.parametrize("text", ["", "m,n\n1,2\n", "\0"])
def test_file_that_is_no_such_csv_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(BenchError, match=r"b\.csv|no times"):
        read_times([str(tmp_path / "b.csv")])
