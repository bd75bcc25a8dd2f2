"""Rows of options that cover chosen pairs: a few rows where the full product is too much."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

Row = dict[str, Any]
_POOL = 12_000  # random rows to choose from: many times the rarest pair's chance


def pairs_of(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Goals for `covering`: every pair of these options."""
    return list(combinations(names, 2))


def covering(
    options: Mapping[str, Sequence[Any]],
    goals: Iterable[tuple[str, ...]],
    is_valid: Callable[[Row], bool] = lambda row: True,
    traits: Callable[[Row], Row] = lambda row: {},
    seed: int = 0,
) -> list[Row]:
    """Rows (one value for each option) in which each goal's names take every combination of values that any
    valid row has. A name is an option, or what `traits` says of a row. Greedy: each row is the best of a few
    random ones that hold a combination still missing. The same arguments give the same rows.

    >>> rows = covering({"x": (1, 2), "y": (3, 4, 5), "z": (6, 7, 8)}, pairs_of("xyz"))
    >>> len(rows) < 2 * 3 * 3, len(set((row["y"], row["z"]) for row in rows))
    (True, 9)
    """
    rng = random.Random(seed)
    goals = list(goals)
    pool = [row for _ in range(_POOL) if is_valid(row := _random_row(options, rng))]
    held = [_combinations(row | traits(row), goals) for row in pool]
    missing = set().union(*held)
    rows = []
    while missing:
        best = max(range(len(pool)), key=lambda i: len(held[i] & missing))
        rows.append(pool[best])
        missing -= held[best]
    return rows


def _random_row(options: Mapping[str, Sequence[Any]], rng: random.Random) -> Row:
    return {name: rng.choice(values) for name, values in options.items()}


def _combinations(row: Row, goals: Iterable[tuple[str, ...]]) -> set[Any]:
    return {tuple((name, row[name]) for name in goal) for goal in goals}
