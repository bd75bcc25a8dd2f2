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
from .._printing import failed, named_lines
from .._validity import invalid_reason
from . import BenchError, HangError
from .arguments import (
    CHAIN_TOKENS,
    HOST_SHAPES,
    HOST_TOKENS,
    check_taken,
    models_of,
    one_group_size,
    parse_numbers,
    problems_of,
)
from .shapes import Model


def run_command(command: str, chosen: argparse.Namespace) -> int:
    """Run `bench` or `tune`: status 2 and a sentence where it can't; a hanging kernel ends the process."""
    try:
        return run_bench(chosen) if command == "bench" else run_tune(chosen)
    except BenchError as error:
        status = failed(error)
        if isinstance(error, HangError):  # CUDA would wait for it at exit
            sys.stdout.flush()
            os._exit(status)
        return status


def run_bench(chosen: argparse.Namespace) -> int:
    """`bench`; 1 where a result was wrong."""
    check_taken(chosen)
    if chosen.fit:
        from .fit import report

        print(report(chosen.fit, chosen.sms))
        return 0
    problems = problems_of(chosen, HOST_SHAPES, HOST_TOKENS) if chosen.host else problems_of(chosen)
    if chosen.list_configs:
        return _list_configs(problems)
    if chosen.chain or chosen.quantize:
        one_group_size(chosen)
    models = models_of(chosen) if chosen.chain else ()
    from . import machine

    configs = _forced_configs(chosen, problems)
    if chosen.plot:
        check_plot(chosen.plot, BenchError)
    machine.require_gpu("bench")
    others = chosen.host or chosen.chain or chosen.quantize  # not of one state
    _print_facts(machine.facts() | ({} if others else {"state": _procedure(chosen).state}))
    if chosen.host:
        return _run_host(problems)
    if chosen.chain:
        return _run_chain(chosen, models)
    if chosen.quantize:
        return _run_quantize(chosen)
    return _run_table(chosen, problems, configs)


def run_tune(chosen: argparse.Namespace) -> int:
    """`tune`."""
    problems, through = problems_of(chosen), _launched(chosen.through)
    from . import machine

    machine.require_gpu("tune")
    from .report import kind
    from .tune import tune

    procedure = _procedure(chosen)
    _print_facts(machine.facts() | {"state": procedure.state})
    shown: list[str] = []

    def show(winner: Any, before: Any) -> None:
        p = winner.problem
        if shown[-1:] != [kind(p)]:
            shown.append(kind(p))
            titles = f"{'N':>7}{'K':>7}{'M':>6}{'µs':>10}{'before':>10}{'gain':>7}  {'variant':<12}kernel"
            print(f"\n{kind(p)}\n{titles}")
        times = f"{winner.us:>10.2f}{before.us:>10.2f}{before.us / winner.us:>7.3f}"
        print(f"{p.n:>7}{p.k:>7}{p.m:>6}{times}  {winner.name:<12}{winner.config.name}", flush=True)

    print(f"stored in {tune(problems, through, procedure, show)}")
    return 0


def _launched(through: Sequence[str]) -> list[str]:
    """The variants to tune that launch as they say; `BenchError` where `CUPY_W4A16_PDL=0` leaves none."""
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

    peers = _peers(chosen, problems)
    variants = _variants(chosen, problems, configs)
    with report.csv_writer(chosen.csv) as write:
        shown: list[str] = []

        def show(row: report.Row) -> None:
            title = report.title(row.problem)
            if shown[-1:] != [title]:
                shown.append(title)
                print(f"\n{title}; cold read {row.read_us:.2f} µs\n{report.header()}")
            write(row)
            if row.fault or row.rounds == chosen.rounds:  # what only had a first look is in the file
                print(report.format_row(row), flush=True)

        rows = sweep(problems, variants, peers=peers, procedure=_procedure(chosen), on_row=show)
    print(report.format_summary(rows))
    if chosen.plot:
        from .machine import device_name

        plot.save_plot(rows, chosen.plot, f"Time of one product, weights cold: {device_name()}")
        print(f"picture: {chosen.plot}")
    wrong = [row for row in rows if row.fault.startswith("wrong")]
    return 1 if wrong else 0


def _variants(
    chosen: argparse.Namespace, problems: Sequence[GemmProblem], configs: Sequence[GemmConfig]
) -> Any:
    from .tune import compiled
    from .variants import VARIANTS

    def configs_for(problem: GemmProblem) -> Sequence[GemmConfig | None]:
        if chosen.all_configs:
            return _config_table.configs(problem)
        if not configs:
            return [None]  # what a call gets
        return [config for config in configs if invalid_reason(config, problem) is None]

    makers = [VARIANTS[name] for name in chosen.through or ["linear"]]
    wanted = {
        problem: [make(config) for config in configs_for(problem) for make in makers] for problem in problems
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


def _peers(chosen: argparse.Namespace, problems: Sequence[GemmProblem]) -> list[Any]:
    from . import humming, variants

    names = chosen.peers
    if names is None:
        symmetric = all(problem.zeros is None for problem in problems)
        names = ["cublas"] + (["humming"] if humming.is_installed() and symmetric else [])
    if "humming" in names:
        if not humming.is_installed():
            raise BenchError("--peers humming: it is not installed: pip install 'humming-kernels[cu12]'")
        print(f"Humming: {humming.version()}")
    return [variants.PEERS[name]() for name in names]


def _run_host(problems: Sequence[GemmProblem]) -> int:
    from .host import format_costs, host_costs

    for problem in problems:
        print(format_costs(problem, host_costs(problem)), flush=True)
    return 0


def _run_chain(chosen: argparse.Namespace, models: Sequence[Model]) -> int:
    from .chain import format_chain, measure_chain

    tokens = parse_numbers("--m", chosen.m) if chosen.m else CHAIN_TOKENS
    for model in models:
        found = []
        for m in tokens:
            found += measure_chain(
                model,
                m,
                dtype=chosen.dtype,
                group_size=one_group_size(chosen),
                rounds=chosen.rounds,
                rest=chosen.rest,
                seed=chosen.seed,
            )
        layers = ", ".join(map(str, model.layers))
        blocks = "1 block" if model.blocks == 1 else f"{model.blocks} blocks"
        print(f"\n{model.name}: {blocks} of {layers}\n{format_chain(found)}", flush=True)
    return 0


def _run_quantize(chosen: argparse.Namespace) -> int:
    from .quantizing import MODEL, format_cost, format_heading, measure_quantizing

    print(f"\n{format_heading(MODEL)}", flush=True)
    for name, costs in measure_quantizing(
        MODEL, dtype=chosen.dtype, group_size=one_group_size(chosen), rounds=chosen.rounds, seed=chosen.seed
    ):
        print(format_cost(MODEL, name, costs), flush=True)
    return 0


def _list_configs(problems: Sequence[GemmProblem]) -> int:
    for config in dict.fromkeys(config for problem in problems for config in _config_table.configs(problem)):
        print(config.name)
    return 0


def _procedure(chosen: argparse.Namespace) -> Any:
    from .sweep import Procedure

    burst = getattr(chosen, "burst", False)  # `tune` has none
    return Procedure(
        rounds=chosen.rounds, work_us=1e3 * chosen.work_ms, rest=chosen.rest, burst=burst, seed=chosen.seed
    )


def _print_facts(facts: dict[str, str]) -> None:
    print("\n".join(named_lines(facts)))
