"""Find the fastest config for given shapes on this GPU, and keep it where `choose_config` looks."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .. import __version__, _cache
from .._build import compile_kernels
from .._config import GemmConfig, GemmProblem
from .._errors import CompileError
from .._kernels import kernel_for, unit_for
from .._tuned import Winner, store_tuned
from . import BenchError, machine
from .report import Row
from .sweep import Plan, sweep
from .variants import known_configs, present_config

TIE = 1.02  # within noise: then the config that the problem gets anyway stays


def compile_configs(pairs: Iterable[tuple[GemmConfig, GemmProblem]]) -> set[GemmConfig]:
    """Compile what is missing, on all CPUs, and return the configs that do not compile."""
    units = {config: unit_for(kernel_for(config, problem)) for config, problem in pairs}
    try:
        compile_kernels(dict.fromkeys(units.values()), progress=True, workers=len(os.sched_getaffinity(0)))
    except CompileError as error:
        reasons = [line for line in str(error).splitlines() if " compile" in line]
        print("left out, as they do not compile:", *reasons, sep="\n  ", file=sys.stderr)
        return {config for config, unit in units.items() if _cache.find(unit) is None}
    return set()


def compiled_configs(problems: Sequence[GemmProblem]) -> dict[GemmProblem, list[GemmConfig]]:
    """For each problem the configs that are valid and compile."""
    candidates = {problem: known_configs(problem) for problem in problems}
    broken = compile_configs(
        (config, problem) for problem, configs in candidates.items() for config in configs
    )
    return {problem: [c for c in configs if c not in broken] for problem, configs in candidates.items()}


def tune(problems: Sequence[GemmProblem], plan: Plan, on_winner: Callable[[Row, Row], None]) -> Path:
    """Time the valid configs of every problem, store the winners, and return the tuning file.

    `on_winner` gets the winner's row and that of the config the problem had so far. What is known is stored
    shape by shape, so that an interrupted run keeps what it found.
    """
    candidates = compiled_configs(problems)
    path = Path()
    by_shape: dict[tuple[int, int], list[GemmProblem]] = {}
    for problem in problems:
        by_shape.setdefault((problem.n, problem.k), []).append(problem)
    for group in by_shape.values():
        rows = sweep(group, lambda problem: _with_current(candidates[problem], problem), peers=(), plan=plan)
        winners = []
        for problem in group:
            winner, current = select_winner(
                [row for row in rows if row.problem == problem], present_config(problem)
            )
            on_winner(winner, current)
            winners.append(Winner(problem, winner.config, round(winner.us, 3), _today(), __version__))
        path = store_tuned(machine.device_name(), machine.num_sms(), winners)
    return path


def select_winner(rows: Sequence[Row], current: GemmConfig) -> tuple[Row, Row]:
    """The row of the fastest config, and that of `current`, which wins a tie."""
    timed = [row for row in rows if not row.fault]
    if not timed:
        reasons = "\n".join(sorted({f"{row.config.name} {row.fault}" for row in rows}))
        raise BenchError(f"no config could be timed:\n{reasons}")
    best = min(timed, key=lambda row: row.us)
    now = next((row for row in timed if row.config == current), best)
    return (now if now.us <= TIE * best.us else best), now


def _with_current(configs: Sequence[GemmConfig], problem: GemmProblem) -> list[GemmConfig]:
    return list(dict.fromkeys([present_config(problem), *configs]))


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
