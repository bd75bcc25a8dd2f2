"""Fitting the heuristic's time model to measured times: from the CSV of `bench --all-configs` to its table.

Needs no GPU. What it prints is text for `_heuristics.py`, and how good the choices of such a table would be.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from .._config import GemmConfig, GemmProblem
from .._heuristics import Cost, Work, best, serves, time_us, work
from . import BenchError

LEAST_POINTS = 6  # a Cost has four numbers
FAR_COUNTS_LESS = 2
# Relative errors beyond this count linearly: single times are off by as much.
OUTLYING = 0.05
# The model has several valleys: memory-bound, bound by arithmetic, by the start of a wave.
STARTS = (2.0, 1.0, 0.1, 0.15), (1.0, 2.0, 0.3, 0.05), (3.0, 0.5, 0.8, 0.1), (0.5, 3.0, 0.2, 0.15)
Times = Mapping[GemmProblem, Mapping[GemmConfig, float]]


class Choice(NamedTuple):
    """What a table of costs would choose for a problem, against the best that was measured for it."""

    problem: GemmProblem
    chosen: GemmConfig
    best: GemmConfig
    times_as_long: float


def read_times(paths: Iterable[str]) -> Times:
    """Times in µs by problem and configuration, from CSV files of `bench`; later ones count.

    A table of costs is for one way of launching, so files that have two raise `BenchError`.
    """
    times: dict[GemmProblem, dict[GemmConfig, float]] = {}
    ways: set[str] = set()
    for path in paths:
        try:
            with Path(path).open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["us"] and not row["fault"]:
                        times.setdefault(_problem(row), {})[_config(row)] = float(row["us"])
                        ways.add(row["name"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise BenchError(f"{path} is no CSV that bench --csv wrote: {error!r}") from error
    if len(ways) > 1:
        raise BenchError(
            f"--fit found times of {', '.join(sorted(ways))}: measure one with --through, and fit it"
        )
    if not times:
        raise BenchError("--fit found no times in these files: measure with bench --all-configs --csv FILE")
    return times


def fit(times: Times, num_sms: int) -> dict[GemmConfig, Cost]:
    """Costs of every configuration with enough points where it serves, by non-negative least squares.

    What is squared is the relative error, times the best time at that point over the configuration's own, to
    the power of `FAR_COUNTS_LESS`: where it is far from being chosen, it need not be right.
    """
    points: dict[GemmConfig, list[tuple[Work, float, float]]] = {}
    for problem, measured in times.items():
        fastest_us = min(measured.values())
        for config, us in measured.items():
            if serves(config, problem, num_sms):
                weight = (fastest_us / us) ** FAR_COUNTS_LESS
                points.setdefault(config, []).append((work(config, problem, num_sms), us, weight))
    return {config: _fitted(found) for config, found in points.items() if len(found) >= LEAST_POINTS}


def choices(costs: Mapping[GemmConfig, Cost], times: Times, num_sms: int) -> list[Choice]:
    """The choices for the measured problems, among configurations measured for them; the worst first."""
    found = []
    for problem, measured in times.items():
        candidates = [config for config in measured if config in costs and serves(config, problem, num_sms)]
        if not candidates:
            continue
        chosen = best(candidates, costs, problem, num_sms)
        fastest = min(measured, key=lambda config: measured[config])
        found.append(Choice(problem, chosen, fastest, measured[chosen] / measured[fastest]))
    return sorted(found, key=lambda choice: -choice.times_as_long)


def report(paths: Sequence[str], num_sms: int, worst: int = 10) -> str:
    """The fitted table as text, then how long its choices take against the best measured."""
    times = read_times(paths)
    costs = fit(times, num_sms)
    found = choices(costs, times, num_sms)
    lines = [
        f"    {_text(config)}: Cost({', '.join(f'{round(x, 5):.4g}' for x in cost)}),"
        for config, cost in costs.items()
    ]
    if found:
        mean = math.exp(sum(math.log(choice.times_as_long) for choice in found) / len(found))
        lines.append(f"\n{len(found)} points: {mean:.4f} times as long as the best, geometric mean")
    lines += [
        f"{choice.times_as_long:.3f}  N={choice.problem.n} K={choice.problem.k} M={choice.problem.m}: "
        f"{choice.chosen.name}, best {choice.best.name}"
        for choice in found[:worst]
    ]
    return "\n".join(lines)


def _fitted(points: Sequence[tuple[Work, float, float]]) -> Cost:
    """The cost that `points`, of work, time in µs and weight, speak for."""
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise BenchError("--fit needs SciPy: pip install 'cupy-w4a16[bench]'") from error

    def errors(numbers: Sequence[float]) -> list[float]:
        return [weight * (time_us(Cost(*numbers), done) / us - 1) for done, us, weight in points]

    options = {"bounds": (0.0, math.inf), "loss": "soft_l1", "f_scale": OUTLYING}
    tries = [least_squares(errors, start, **options) for start in STARTS]
    return Cost(*min(tries, key=lambda found: found.cost).x.tolist())


def _problem(row: Mapping[str, str]) -> GemmProblem:
    sizes = {name: int(row[name]) for name in ("m", "n", "k", "group_size")}
    return GemmProblem(**sizes, dtype=row["dtype"], zeros=row["zeros"] or None, out_dtype=row["out_dtype"])


def _config(row: Mapping[str, str]) -> GemmConfig:
    values: dict[str, object] = {}
    for field in fields(GemmConfig):
        text = row[field.name]
        values[field.name] = None if text == "" else int(text) if text.isdigit() else text
    return GemmConfig(**values)  # type: ignore[arg-type]


def _text(config: GemmConfig) -> str:
    """A `GemmConfig` call with the fields that are not the default's."""
    given = ((field, getattr(config, field.name)) for field in fields(GemmConfig))
    text = ", ".join(f"{field.name}={value!r}" for field, value in given if value != field.default)
    return f"GemmConfig({text})"
