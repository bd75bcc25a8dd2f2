"""Find the fastest config for given shapes on this GPU, and keep it where calls that name none look."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .. import __version__, _cache, _config_table
from .._build import compile_kernels
from .._config import GemmConfig, GemmProblem
from .._errors import CompileError
from .._kernels import unit_for
from .._tuned import Winner, store_tuned, tuned_path
from . import BenchError, machine
from .report import Row
from .sweep import Procedure, sweep
from .variants import VARIANTS, Variant

TIE = 1.02  # within noise: then the config that the problem gets anyway stays


def compiled(variants: Mapping[GemmProblem, Sequence[Variant]]) -> dict[GemmProblem, list[Variant]]:
    """The variants of each problem that compile; what the cache lacks is compiled first, on all CPUs."""
    units = {
        (problem, variant): unit_for(variant.kernel_for(problem))
        for problem, ours in variants.items()
        for variant in ours
    }
    missing = set()
    try:
        compile_kernels(dict.fromkeys(units.values()), progress=True, workers=len(os.sched_getaffinity(0)))
    except CompileError as error:
        reasons = [line for line in str(error).splitlines() if " compile" in line]
        print("left out, as they do not compile:", *reasons, sep="\n  ", file=sys.stderr)
        missing = {unit for unit in dict.fromkeys(units.values()) if _cache.find(unit) is None}
    return {
        problem: [variant for variant in ours if units[problem, variant] not in missing]
        for problem, ours in variants.items()
    }


def tune(
    problems: Sequence[GemmProblem],
    through: Sequence[str],
    procedure: Procedure,
    on_winner: Callable[[Row, Row], None],
) -> Path:
    """Time variants with the valid configs of every problem, store the winners, and return the tuning file.

    `through` names the variants; each has winners of its own, for launches of its kind. `on_winner` gets the
    winner's row and that of the config the problem had so far. What is known is stored shape by shape, so
    that an interrupted run keeps what it found.

    Raises:
        BenchError: no config of a problem could be timed; or, before anything is, the file can't be written.
    """
    path = _store([])
    candidates = compiled({problem: _candidates(problem, through) for problem in problems})
    by_shape: dict[tuple[int, int], list[GemmProblem]] = {}
    for problem in problems:
        by_shape.setdefault((problem.n, problem.k), []).append(problem)
    for group in by_shape.values():
        for name in through:
            ours = {p: [variant for variant in candidates[p] if variant.name == name] for p in group}
            winners = _winners(ours, VARIANTS[name](None), procedure, on_winner)
            path = _store(winners)
    return path


def _store(winners: Sequence[Winner]) -> Path:
    try:
        return store_tuned(machine.device_name(), machine.num_sms(), winners)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise BenchError(
            f"the tuning file {tuned_path()} can't be written ({type(error).__name__}: {error}): set "
            "CUPY_W4A16_CACHE_DIR to a writable folder"
        ) from error


def _winners(
    candidates: Mapping[GemmProblem, Sequence[Variant]],
    untuned: Variant,
    procedure: Procedure,
    on_winner: Callable[[Row, Row], None],
) -> list[Winner]:
    """The fastest of each problem's candidates; `untuned` runs what the problem gets so far."""
    rows = sweep(list(candidates), candidates.__getitem__, peers=(), procedure=procedure)
    winners = []
    for problem in candidates:
        timed = [row for row in rows if row.problem == problem]
        winner, current = select_winner(timed, untuned.config_for(problem))
        on_winner(winner, current)
        us = round(winner.us, 3)
        winners.append(Winner(problem, winner.config, us, untuned.pdl, _today(), __version__))
    return winners


def select_winner(rows: Sequence[Row], current: GemmConfig) -> tuple[Row, Row]:
    """The row of the fastest config, and that of `current`, which wins a tie."""
    timed = [row for row in rows if not row.fault]
    if not timed:
        reasons = "\n".join(sorted({f"{row.config.name} {row.fault}" for row in rows}))
        raise BenchError(f"no config could be timed:\n{reasons}")
    best = min(timed, key=lambda row: row.us)
    now = next((row for row in timed if row.config == current), best)
    return (now if now.us <= TIE * best.us else best), now


def _candidates(problem: GemmProblem, through: Sequence[str]) -> list[Variant]:
    """Each variant with every config that is known, and with the one that the problem gets so far."""
    found = []
    for make in (VARIANTS[name] for name in through):
        configs = dict.fromkeys([make(None).config_for(problem), *_config_table.configs(problem)])
        found += [make(config) for config in configs]
    return found


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
