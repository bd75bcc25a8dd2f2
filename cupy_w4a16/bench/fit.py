"""Fitting the heuristic's time model to measured times: from the CSV of `bench --all-configs` to its table.

Needs no GPU. What it prints is text for `_heuristics.py`, and how good the choices of such a table would be.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._config import GemmConfig, GemmProblem
from .._heuristics import Cost, best, serves, terms
from . import BenchError

LEAST_POINTS = 4  # as many as a Cost has numbers
FAR_COUNTS_LESS = 2
Times = Mapping[GemmProblem, Mapping[GemmConfig, float]]


class Choice(NamedTuple):
    """What a table of costs would choose for a problem, against the best that was measured for it."""

    problem: GemmProblem
    chosen: GemmConfig
    best: GemmConfig
    times_as_long: float


def read_times(paths: Iterable[str]) -> Times:
    """Times in µs by problem and configuration, from CSV files of `bench`; later ones count."""
    times: dict[GemmProblem, dict[GemmConfig, float]] = {}
    for path in paths:
        try:
            with Path(path).open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["us"] and not row["fault"]:
                        times.setdefault(_problem(row), {})[_config(row)] = float(row["us"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise BenchError(f"{path} is no CSV that bench --csv wrote: {error!r}") from error
    if not times:
        raise BenchError("--fit found no times in these files: measure with bench --all-configs --csv FILE")
    return times


def fit(times: Times, num_sms: int) -> dict[GemmConfig, Cost]:
    """Costs of every configuration with enough points where it serves, by non-negative least squares.

    What is squared is the relative error, times the best time at that point over the configuration's own, to
    the power of `FAR_COUNTS_LESS`: where it is far from being chosen, it need not be right.
    """
    points: dict[GemmConfig, list[tuple[list[float], float]]] = {}
    for problem, measured in times.items():
        fastest_us = min(measured.values())
        for config, us in measured.items():
            if serves(config, problem.m):
                weight = (fastest_us / us) ** FAR_COUNTS_LESS
                row = [weight * x / us for x in terms(config, problem, num_sms)]
                points.setdefault(config, []).append((row, weight))
    return {
        config: Cost(*_non_negative(*zip(*found, strict=True)))
        for config, found in points.items()
        if len(found) >= LEAST_POINTS
    }


def choices(costs: Mapping[GemmConfig, Cost], times: Times, num_sms: int) -> list[Choice]:
    """The choices for the measured problems, among configurations measured for them; the worst first."""
    found = []
    for problem, measured in times.items():
        candidates = [config for config in measured if config in costs and serves(config, problem.m)]
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
        f"    {_text(config)}: Cost({', '.join(f'{x:.4g}' for x in cost)})," for config, cost in costs.items()
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


def _non_negative(rows: Sequence[Sequence[float]], target: Sequence[float]) -> list[float]:
    """x >= 0 with the least |rows @ x - target|: the best of plain least squares, whatever is set to 0.

    >>> [round(x, 6) for x in _non_negative([[1.0, 0.5], [0.5, 1.0]], [1.0, 1.0])]
    [0.666667, 0.666667]
    """
    a, b = np.asarray(rows), np.asarray(target)
    size = a.shape[1]
    best, least = [0.0] * size, math.inf
    for count in range(1, size + 1):
        for used in combinations(range(size), count):
            x, *_ = np.linalg.lstsq(a[:, used], b, rcond=None)
            error = float(np.linalg.norm(a[:, used] @ x - b))
            if (x >= 0).all() and error < least * (1 - 1e-9):
                least = error
                best = [float(x[used.index(i)]) if i in used else 0.0 for i in range(size)]
    return best


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
