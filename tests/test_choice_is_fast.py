"""The picks of the heuristic, by measured times (fixtures/sweeps.csv): its numbers must not lose speed."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from cupy_w4a16 import GemmProblem, choose_config
from cupy_w4a16.bench.shapes import geometric_mean

SWEEPS = Path(__file__).parent / "fixtures" / "sweeps.csv"
SMS = 132  # of the H100 that was measured
Kind = tuple[str, str, str]


def measured() -> dict[Kind, dict[GemmProblem, dict[str, float]]]:
    """Times in µs of the fastest configs, by problem; apart for kinds of launch and of weights."""
    found: dict[Kind, dict[GemmProblem, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    with SWEEPS.open(newline="") as file:
        for row in csv.DictReader(file):
            sizes = (int(row[size]) for size in ("m", "n", "k", "group_size"))
            problem = GemmProblem(*sizes, row["dtype"], row["zeros"] or None)
            kind = row["name"], row["group_size"], row["zeros"] or "symmetric"
            found[kind][problem][row["config"]] = float(row["us"])
    return found


MEASURED = measured()


@pytest.mark.parametrize("kind", MEASURED, ids="-".join)
def test_picks_are_near_the_fastest(kind: Kind) -> None:
    known = {config for times in MEASURED[kind].values() for config in times}
    ratios = {}
    for problem, times in MEASURED[kind].items():
        pick = choose_config(problem, SMS, pdl=kind[0] == "linear-pdl").name
        if pick in known:  # others are younger than the sweep
            assert pick in times, f"{pick} is not among the fastest of {problem}"
            ratios[problem] = times[pick] / min(times.values())
    assert len(ratios) >= 0.75 * len(MEASURED[kind])
    assert geometric_mean(ratios.values()) <= 1.03
    worst = max(ratios, key=lambda problem: ratios[problem])
    assert ratios[worst] <= 1.06, worst
