"""The commands `bench` and `tune`: what they run, and what they print."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from .. import _config_table
from .._config import GemmConfig, GemmProblem
from .._env import pdl_allowed
from .._plot_file import check_plot
from .._validity import invalid_reason
from . import BenchError, HangError
from .arguments import CHAIN_TOKENS, problems_of
from .shapes import MODELS, parse_tokens


def run_command(command: str, chosen: argparse.Namespace) -> int:
    """Run `bench` or `tune`: status 2 and a sentence where it can't; a hanging kernel ends the process."""
    try:
        return run_bench(chosen) if command == "bench" else run_tune(chosen)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, HangError):  # CUDA would wait for it at exit
            sys.stdout.flush()
            os._exit(2)
        return 2


def run_bench(chosen: argparse.Namespace) -> int:
    """`bench`; 1 where a result was wrong."""
    if chosen.fit:
        from .fit import report

        print(report(chosen.fit, chosen.sms))
        return 0
    problems = problems_of(chosen)
    if chosen.list_configs:
        return _list_configs(problems)
    from . import machine

    configs = _forced_configs(chosen, problems)
    if chosen.plot:
        check_plot(chosen.plot, BenchError)
    machine.require_gpu("bench")
    others = chosen.host or chosen.chain or chosen.quantize  # not of one state
    _print_facts(machine.facts() | ({} if others else {"state": _plan(chosen).state}))
    if chosen.host:
        return _run_host(chosen, problems)
    if chosen.chain:
        return _run_chain(chosen)
    if chosen.quantize:
        return _run_quantize(chosen)
    return _run_table(chosen, problems, configs)


def run_tune(chosen: argparse.Namespace) -> int:
    """`tune`."""
    problems, through = problems_of(chosen), _launched(chosen.through)
    from . import machine

    machine.require_gpu("tune")
    from .tune import tune

    plan = _plan(chosen)
    _print_facts(machine.facts() | {"state": plan.state})
    print(f"{'N':>7}{'K':>7}{'M':>6}{'µs':>10}{'before':>10}{'gain':>7}  {'call':<12}kernel")

    def show(winner: Any, before: Any) -> None:
        p = winner.problem
        times = f"{winner.us:>10.2f}{before.us:>10.2f}{before.us / winner.us:>7.3f}"
        print(f"{p.n:>7}{p.k:>7}{p.m:>6}{times}  {winner.name:<12}{winner.config.name}", flush=True)

    print(f"stored in {tune(problems, through, plan, show)}")
    return 0


def _launched(through: Sequence[str]) -> list[str]:
    """Those of `tune`'s calls that launch as they say; `BenchError` where `CUPY_W4A16_PDL=0` leaves none."""
    names = [name for name in through if name == "linear" or pdl_allowed()]
    if not names:
        raise BenchError(
            f"--through {' '.join(through)}: CUPY_W4A16_PDL=0 switches dependent launch off; unset it"
        )
    return names


def _run_table(
    chosen: argparse.Namespace, problems: Sequence[GemmProblem], configs: Sequence[GemmConfig]
) -> int:
    from . import plot, report
    from .sweep import sweep

    peers = _peers(chosen)
    variants = _variants(chosen, problems, configs)
    with report.csv_writer(chosen.csv) as write:
        shown: list[tuple[int, int]] = []

        def show(row: report.Row) -> None:
            shape = row.problem.n, row.problem.k
            if shown[-1:] != [shape]:
                shown.append(shape)
                print(f"\n{report.title(row.problem)}; cold read {row.read_us:.2f} µs\n{report.header()}")
            write(row)
            if row.fault or row.rounds == chosen.rounds:  # what only had a first look is in the file
                print(report.format_row(row), flush=True)

        rows = sweep(problems, variants, peers=peers, plan=_plan(chosen), on_row=show)
    print(f"\nOver the shapes\n{report.format_summary(rows)}")
    if chosen.plot:
        from .machine import device_name

        what = f"{report.title(problems[0]).partition(', ')[2]}, {device_name()}"
        plot.save_plot(rows, chosen.plot, f"Time of one product, weights cold: {what}")
        print(f"picture: {chosen.plot}")
    wrong = [row for row in rows if row.fault.startswith("wrong")]
    return 1 if wrong else 0


def _variants(
    chosen: argparse.Namespace, problems: Sequence[GemmProblem], configs: Sequence[GemmConfig]
) -> Any:
    from .tune import compiled
    from .variants import WAYS

    def configs_for(problem: GemmProblem) -> Sequence[GemmConfig | None]:
        if chosen.all_configs:
            return _config_table.configs(problem)
        if not configs:
            return [None]  # what a call gets
        return [config for config in configs if invalid_reason(config, problem) is None]

    ways = [WAYS[name] for name in chosen.through or ["linear"]]
    wanted = {
        problem: [way(config) for config in configs_for(problem) for way in ways] for problem in problems
    }
    return compiled(wanted).__getitem__


def _forced_configs(chosen: argparse.Namespace, problems: Sequence[GemmProblem]) -> list[GemmConfig]:
    from .variants import find_config

    configs = [find_config(text, problems) for text in chosen.config]
    for text, config in zip(chosen.config, configs, strict=True):
        reasons = {invalid_reason(config, problem) for problem in problems}
        if None not in reasons:
            raise BenchError(f"--config {text} can't run any of these products: {reasons.pop()}")
    return configs


def _peers(chosen: argparse.Namespace) -> list[Any]:
    from . import humming, variants

    names = chosen.peers
    if names is None:
        names = ["cublas"] + (["humming"] if humming.is_installed() and chosen.zeros == "none" else [])
    if "humming" in names:
        if not humming.is_installed():
            raise BenchError("--peers humming: it is not installed: pip install 'humming-kernels[cu12]'")
        print(f"Humming: {humming.version()}")
    return [variants.PEERS[name]() for name in names]


def _run_host(chosen: argparse.Namespace, problems: Sequence[GemmProblem]) -> int:
    from dataclasses import replace

    from .host import format_costs, host_costs

    for problem in problems if chosen.shapes else [replace(problems[0], n=4096, k=4096)]:
        if chosen.m or problem.m == problems[0].m:
            print(format_costs(problem, host_costs(problem)), flush=True)
    return 0


def _run_chain(chosen: argparse.Namespace) -> int:
    from .chain import format_chain, measure_chain

    tokens = parse_tokens(chosen.m) if chosen.m else CHAIN_TOKENS
    for model in MODELS:
        found = []
        for m in tokens:
            found += measure_chain(
                model,
                m,
                dtype=chosen.dtype,
                group_size=chosen.group_size,
                rounds=chosen.rounds,
                rest=chosen.rest,
                seed=chosen.seed,
            )
        layers = ", ".join(map(str, model.layers))
        print(f"\n{model.name}: {model.blocks} blocks of {layers}\n{format_chain(found)}", flush=True)
    return 0


def _run_quantize(chosen: argparse.Namespace) -> int:
    from .quantizing import MODEL, format_cost, format_heading, measure_quantizing

    print(f"\n{format_heading(MODEL)}", flush=True)
    for name, costs in measure_quantizing(
        MODEL, dtype=chosen.dtype, group_size=chosen.group_size, rounds=chosen.rounds, seed=chosen.seed
    ):
        print(format_cost(MODEL, name, costs), flush=True)
    return 0


def _list_configs(problems: Sequence[GemmProblem]) -> int:
    for config in dict.fromkeys(config for problem in problems for config in _config_table.configs(problem)):
        print(config.name)
    return 0


def _plan(chosen: argparse.Namespace) -> Any:
    from .sweep import Plan

    burst = getattr(chosen, "burst", False)  # `tune` has none
    return Plan(
        rounds=chosen.rounds, work_us=1e3 * chosen.work_ms, rest=chosen.rest, burst=burst, seed=chosen.seed
    )


def _print_facts(facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
