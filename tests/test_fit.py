"""Fitting the heuristic's table to measured times."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import pytest

from cupy_w4a16 import GemmConfig, GemmProblem, choose_config
from cupy_w4a16.__main__ import main
from cupy_w4a16._heuristics import COSTS, SPLIT_MARGIN, modelled_us, serves
from cupy_w4a16.bench import BenchError
from cupy_w4a16.bench.fit import choices, fit, read_times

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
TOKENS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 1024)


def modelled() -> dict[GemmProblem, dict[GemmConfig, float]]:
    """Times as the table in use has them, which a fit must find again."""
    problems = [GemmProblem(m, n, k) for n, k in SHAPES for m in TOKENS]
    return {p: {c: modelled_us(c, p, SMS) for c in COSTS if serves(c, p, SMS)} for p in problems}


def test_fit_finds_the_times_it_was_given() -> None:
    times = modelled()
    costs = fit(times, SMS)
    assert len(costs) > 20
    assert all(x >= 0 for cost in costs.values() for x in cost)
    assert all(choice.times_as_long < SPLIT_MARGIN + 1e-4 for choice in choices(costs, times, SMS))


def test_a_wrong_choice_is_counted() -> None:
    times = modelled()
    problem = GemmProblem(1024, 8192, 8192)
    costs = fit(times, SMS)
    chosen = choose_config(problem)
    times[problem][chosen] *= 2  # the model's choice is not what was measured to be best
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
            measured[config] = 10 * min(measured.values())
    costs = fit(times, SMS)
    for problem, measured in times.items():
        if problem.m == 1024:
            model = modelled_us(config, problem, SMS, costs)
            assert model == pytest.approx(measured[config], rel=0.02)


def test_too_few_points_give_no_costs() -> None:
    problem = GemmProblem(256, 4096, 4096)
    assert fit({problem: {GemmConfig(256, 128): 10.0}}, SMS) == {}


def write(path: Path, times: dict[GemmProblem, dict[GemmConfig, float]], way: str = "linear") -> None:
    rows = [
        {"name": way, **asdict(problem), **asdict(config), "us": us, "fault": ""}
        for problem, measured in times.items()
        for config, us in measured.items()
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_times_survive_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", modelled())
    assert read_times([str(tmp_path / "a.csv")]) == modelled()


def test_two_ways_of_launching_are_not_mixed(tmp_path: Path) -> None:
    times = {GemmProblem(256, 4096, 4096): {GemmConfig(256, 128): 10.0}}
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
    assert "GemmConfig(tile_n=256): Cost(" in printed
    assert f"{len(SHAPES) * len(TOKENS)} points: 1.0000 times" in printed


@pytest.mark.parametrize("text", ["", "m,n\n1,2\n", "\0"])
def test_file_that_is_no_such_csv_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(BenchError, match=r"b\.csv|no times"):
        read_times([str(tmp_path / "b.csv")])
