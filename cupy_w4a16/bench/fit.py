"""Fitting the heuristic's time model to measured times: from the CSV of `bench --all-configs` to its table.

Needs no GPU. What it prints is text for `_costs.py`, and how good the choices of such a table would be.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from .._config import NAMED_CONFIGS, GemmConfig, GemmProblem
from .._costs import Cost
from .._heuristics import Work, best, rated_us, serves, time_us, work
from . import BenchError
from .shapes import geometric_mean

LEAST_POINTS = 6  # a Cost has five numbers, which are not negative
FAR_COUNTS_LESS = 2
DISPENSABLE = 1.001  # what choices may take longer without all configurations that are left out
FAR_COUNTS_MORE = 16  # of such ratios that power is averaged: one of 1.05 counts as seven of 1.01
# Relative errors beyond this count linearly: where a model of five numbers is wrong, more squares don't help.
OUTLYING = 0.2
# The model has several valleys: memory-bound, bound by arithmetic, by the start of a wave.
STARTS = (2.0, 1.0, 0.1, 0.15, 0.1), (1.0, 2.0, 0.3, 0.05, 0.5), (3.0, 0.5, 0.8, 0.1, 0.05)


class Measured(NamedTuple):
    """One configuration's time, and how many of its CTAs an SM held."""

    us: float
    resident: int


Times = Mapping[GemmProblem, Mapping[GemmConfig, Measured]]


class Choice(NamedTuple):
    """What a table of costs would choose for a problem, against the best that was measured for it."""

    problem: GemmProblem
    chosen: GemmConfig
    best: GemmConfig
    times_as_long: float


def read_times(paths: Iterable[str]) -> Times:
    """Times in µs by problem and configuration, from CSV files of `bench`; later ones count.

    A table of costs is for one variant, so files that have two raise `BenchError`.
    """
    times: dict[GemmProblem, dict[GemmConfig, Measured]] = {}
    variants: set[str] = set()
    for path in paths:
        try:
            with Path(path).open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["us"] and not row["fault"]:
                        measured = Measured(float(row["us"]), int(row["resident"]))
                        times.setdefault(_problem(row), {})[_config(row)] = measured
                        variants.add(row["name"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise BenchError(f"{path} is no CSV that bench --csv wrote: {error!r}") from error
    if len(variants) > 1:
        raise BenchError(
            f"--fit found times of {', '.join(sorted(variants))}: measure one with --through, and fit it"
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
    resident: dict[GemmConfig, int] = {}
    for problem, found in times.items():
        fastest_us = min(measured.us for measured in found.values())
        for config, measured in found.items():
            if serves(config, problem):
                resident[config] = measured.resident
                done = work(config, measured.resident, problem, num_sms)
                weight = (fastest_us / measured.us) ** FAR_COUNTS_LESS
                points.setdefault(config, []).append((done, measured.us, weight))
    return {
        config: _fitted(resident[config], each)
        for config, each in points.items()
        if len(each) >= LEAST_POINTS
    }


def choices(costs: Mapping[GemmConfig, Cost], times: Times, num_sms: int) -> list[Choice]:
    """The choices for the measured problems, among configurations measured for them; the worst first."""
    made = []
    for problem, found in times.items():
        candidates = _candidates(costs, found, problem)
        if not candidates:
            continue
        chosen = best(candidates, costs, problem, num_sms)
        fastest = min(found, key=lambda config: found[config].us)
        made.append(Choice(problem, chosen, fastest, found[chosen].us / found[fastest].us))
    return sorted(made, key=lambda choice: -choice.times_as_long)


def thinned(costs: Mapping[GemmConfig, Cost], times: Times, num_sms: int) -> dict[GemmConfig, Cost]:
    """The costs that good choices need: one after the other goes the configuration that is missed least."""
    # For each problem its candidates, that of the least modelled time first, and their times over the best.
    ranked: list[list[tuple[GemmConfig, float]]] = []
    for problem, found in times.items():
        candidates = _candidates(costs, found, problem)
        candidates.sort(key=lambda config: rated_us(config, costs[config], problem, num_sms))
        fastest_us = min(measured.us for measured in found.values())
        ranked.append([(config, found[config].us / fastest_us) for config in candidates])
    ranked = [each for each in ranked if each]

    def times_as_long(kept: Mapping[GemmConfig, Cost]) -> float:
        ratios = (next((ratio for config, ratio in each if config in kept), math.inf) for each in ranked)
        return statistics.fmean(ratio**FAR_COUNTS_MORE for ratio in ratios) ** (1 / FAR_COUNTS_MORE)

    def without(config: GemmConfig) -> dict[GemmConfig, Cost]:
        return {other: cost for other, cost in kept.items() if other != config}

    kept, least = dict(costs), math.inf
    while len(kept) > 1:
        least = min(least, times_as_long(kept))
        fewer = min(map(without, kept), key=times_as_long)
        if times_as_long(fewer) > DISPENSABLE * least:
            break
        kept = fewer
    return kept


def _candidates(
    costs: Mapping[GemmConfig, Cost], found: Mapping[GemmConfig, Measured], problem: GemmProblem
) -> list[GemmConfig]:
    return [config for config in found if config in costs and serves(config, problem)]


def report(paths: Sequence[str], num_sms: int, worst: int = 10) -> str:
    """The fitted table as text, then how long its choices take against the best measured."""
    times = read_times(paths)
    costs = thinned(fit(times, num_sms), times, num_sms)
    found = choices(costs, times, num_sms)
    lines = [f"    {table_row(config, cost)}" for config, cost in costs.items()]
    if found:
        mean = geometric_mean(choice.times_as_long for choice in found)
        lines.append(f"\n{len(found)} points: {mean:.4f} times as long as the best, geometric mean")
    lines += [
        f"{choice.times_as_long:.3f}  N={choice.problem.n} K={choice.problem.k} M={choice.problem.m}: "
        f"{choice.chosen.name}, best {choice.best.name}"
        for choice in found[:worst]
    ]
    return "\n".join(lines)


def table_row(config: GemmConfig, cost: Cost) -> str:
    """The line of a table in `_costs.py`."""
    numbers = ", ".join(f"{round(x, 5):.4g}" for x in cost)
    if config in NAMED_CONFIGS.values():
        return f'NAMED_CONFIGS["{config.name}"]: Cost({numbers}),'
    if config.family == "mma":
        rest = f"{config.split_k_warpgroups}, {config.ctas_per_sm}, {config.stages}"
        return f"_mma({config.tile_n}, {config.tile_m}, {rest}): Cost({numbers}),"
    values = ((field, getattr(config, field.name)) for field in fields(GemmConfig)[2:])
    options = {field.name: value for field, value in values if value != field.default}
    maker = "_sums" if options.pop("scale_on", None) else "GemmConfig"
    rest = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"{maker}({config.tile_n}, {config.tile_m}{rest}): Cost({numbers}),"


def _fitted(resident: int, points: Sequence[tuple[Work, float, float]]) -> Cost:
    """The cost that `points`, of work, time in µs and weight, speak for."""
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise BenchError("--fit needs SciPy, which the extra [bench] brings: pip install scipy") from error

    def errors(numbers: Sequence[float]) -> list[float]:
        return [weight * (time_us(Cost(resident, *numbers), done) / us - 1) for done, us, weight in points]

    options = {"bounds": (0.0, math.inf), "loss": "soft_l1", "f_scale": OUTLYING}
    tries = [least_squares(errors, start, **options) for start in STARTS]
    return Cost(resident, *min(tries, key=lambda found: found.cost).x.tolist())


def _problem(row: Mapping[str, str]) -> GemmProblem:
    sizes = {name: int(row[name]) for name in ("m", "n", "k", "group_size")}
    return GemmProblem(**sizes, dtype=row["dtype"], zeros=row["zeros"] or None, out_dtype=row["out_dtype"])


def _config(row: Mapping[str, str]) -> GemmConfig:
    values: dict[str, object] = {}
    for field in fields(GemmConfig):
        text = row[field.name]
        values[field.name] = None if text == "" else int(text) if text.isdigit() else text
    return GemmConfig(**values)  # type: ignore[arg-type]
