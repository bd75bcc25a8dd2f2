"""The commands `bench` and `tune`: their arguments, and what they print."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from .._config import GemmConfig, GemmProblem, invalid_reason
from . import BenchError, HangError
from .shapes import MODEL_SHAPES, MODELS, TOKENS, parse_shapes, parse_tokens

CHAIN_TOKENS = (1, 16, 64)
ZEROS = ("none", "integer", "float")


def add_bench(commands: Any) -> None:
    """Add `bench` to the command line."""
    bench = commands.add_parser(
        "bench",
        help="time the kernels beside cuBLAS on this GPU",
        description="Time gemm on this GPU beside cuBLAS FP16: CUDA graphs of many calls over rotating "
        "weights that come cold from memory, in random order, medians. Every result is checked before it is "
        "timed. A line a point: µs, TFLOPS, GB/s, times as fast as cuBLAS, and times as long as the floor: "
        "the larger of a cold read of the weights, measured here too, and the arithmetic at the best rate "
        "that cuBLAS reached.",
    )
    _add_problem(bench, shapes="linear layers of Llama-3.1-8B and 70B", tokens="1,2,4,...,8192")
    what = bench.add_argument_group("what is timed")
    what.add_argument(
        "--config", nargs="+", default=(), metavar="NAME",
        help="these configs through gemm, by name or by fields such as tile_n=256,tile_m=64 (default: the "
        "one that choose_config picks)",
    )  # fmt: skip
    what.add_argument(
        "--all-configs",
        action="store_true",
        help="every valid config: a short first look, then the best in full",
    )
    what.add_argument(
        "--list-configs", action="store_true", help="name the valid configs and end; needs no GPU"
    )
    what.add_argument(
        "--through", nargs="+", choices=("linear", "gemm", "linear-pdl", "gemm-pdl"), metavar="CALL",
        help="linear, gemm, linear-pdl or gemm-pdl (with dependent launch): the call that makes the products "
        "(default: linear where there is a Linear)",
    )  # fmt: skip
    what.add_argument(
        "--peers", nargs="*", choices=("cublas", "cublas-nk", "matmul", "humming"), metavar="PEER",
        help="compare with cublas, cublas-nk (weights stored (n, k)), matmul (cupy.matmul), humming "
        "(default: cublas, and humming where it is installed)",
    )  # fmt: skip
    how = bench.add_argument_group("how")
    how.add_argument("--burst", action="store_true", help="bursts of 0.1 s a kernel: at the power cap")
    _add_plan(how)
    output = bench.add_argument_group("output")
    output.add_argument("--csv", metavar="FILE", help="write a row a line, as they are measured")
    output.add_argument("--plot", metavar="FILE.png", help="draw time against M (needs matplotlib)")
    other = bench.add_argument_group("instead of the table")
    other.add_argument(
        "--host", action="store_true", help="host time of a call: 1,000 queued (default 4096x4096, M=1)"
    )
    other.add_argument(
        "--chain", action="store_true",
        help="tokens a second that the linear layers of Llama-3.1-8B and 70B allow, FP16 against 4 bits "
        f"(default M={','.join(map(str, CHAIN_TOKENS))})",
    )  # fmt: skip
    bench.set_defaults(run=lambda chosen: _guarded(run_bench, chosen))


def add_tune(commands: Any) -> None:
    """Add `tune` to the command line."""
    tune = commands.add_parser(
        "tune",
        help="find the fastest kernel for your shapes and keep it",
        description="Time the valid configs for your shapes on this GPU and keep the fastest of each in a "
        "file beside the compiled kernels; from then on gemm uses them. A number of tokens that was not "
        "tuned uses the next larger one, up to twice its size.",
    )
    _add_problem(tune, shapes=None, tokens="1,2,4,...,8192")
    _add_plan(tune)
    tune.set_defaults(run=lambda chosen: _guarded(run_tune, chosen))


def _add_problem(parser: Any, shapes: str | None, tokens: str) -> None:
    group = parser.add_argument_group("products")
    default = f" (default: {shapes})" if shapes else ""
    group.add_argument(
        "--shapes", metavar="NxK,...", required=shapes is None,
        help=f"output x input features of the weights{default}",
    )  # fmt: skip
    group.add_argument("--m", metavar="M,...", help=f"numbers of tokens (default: {tokens})")
    group.add_argument(
        "--group-size", type=int, default=128, metavar="G",
        help="weights per scale: a power of two from 32, or -1 for whole columns (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--dtype", choices=("float16", "bfloat16"), default="float16", help="default: %(default)s"
    )
    group.add_argument(
        "--zeros", choices=ZEROS, default="none", help="zero points (default: none, symmetric)"
    )


def _add_plan(group: Any) -> None:
    group.add_argument(
        "--rounds", type=int, default=7, metavar="R", help="medians of R (default: %(default)s)"
    )
    group.add_argument(
        "--work-ms", type=float, default=5.0, metavar="T",
        help="work of one graph in milliseconds, about (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of weights and order (default: %(default)s)"
    )


def _guarded(run: Callable[[argparse.Namespace], int], chosen: argparse.Namespace) -> int:
    """Status 2 and a sentence where the benchmark can't run; a kernel that hangs ends the process at once."""
    try:
        return run(chosen)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, HangError):  # CUDA would wait for it at exit
            sys.stdout.flush()
            os._exit(2)
        return 2


def problems_of(chosen: argparse.Namespace) -> list[GemmProblem]:
    """The products that the arguments name, shape by shape."""
    from .._quantize import check_group_size

    shapes = parse_shapes(chosen.shapes) if chosen.shapes else MODEL_SHAPES
    tokens = parse_tokens(chosen.m) if chosen.m else TOKENS
    try:
        group_size = check_group_size(chosen.group_size)
    except ValueError as error:
        raise BenchError(f"--group-size: {error}") from error
    for name in ("rounds", "work_ms"):
        if getattr(chosen, name) <= 0:
            raise BenchError(f"--{name.replace('_', '-')} is {getattr(chosen, name)}: it must be above 0")
    zeros = {"none": None, "integer": "uint8", "float": chosen.dtype}[chosen.zeros]
    return [
        GemmProblem(m, n, k, group_size, chosen.dtype, zeros, chosen.dtype) for n, k in shapes for m in tokens
    ]


def run_bench(chosen: argparse.Namespace) -> int:
    """`bench`; 1 where a result was wrong."""
    problems = problems_of(chosen)
    if chosen.list_configs:
        return _list_configs(problems)
    from . import machine

    configs = _forced_configs(chosen, problems)
    if chosen.plot:
        from .plot import require_matplotlib

        require_matplotlib()
    machine.require_gpu("bench")
    _print_facts(machine.facts())
    if chosen.host:
        return _run_host(chosen, problems)
    if chosen.chain:
        return _run_chain(chosen)
    return _run_table(chosen, problems, configs)


def run_tune(chosen: argparse.Namespace) -> int:
    """`tune`."""
    problems = problems_of(chosen)
    from . import machine

    machine.require_gpu("tune")
    from .tune import tune

    _print_facts(machine.facts())
    print(f"{'N':>7}{'K':>7}{'M':>6}{'µs':>10}{'before':>10}{'gain':>7}  kernel")

    def show(winner: Any, before: Any) -> None:
        p = winner.problem
        gain = before.us / winner.us
        print(
            f"{p.n:>7}{p.k:>7}{p.m:>6}{winner.us:>10.2f}{before.us:>10.2f}{gain:>7.3f}  {winner.config.name}",
            flush=True,
        )

    print(f"stored in {tune(problems, _plan(chosen), show)}")
    return 0


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
            print(report.format_row(row), flush=True)
            write(row)

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
    from .._heuristics import choose_config
    from . import variants
    from .tune import compile_configs, compiled_configs

    if chosen.all_configs:
        found = compiled_configs(problems)
        return lambda problem: found[problem]
    if configs:
        broken = compile_configs((config, problems[0]) for config in configs)
        return lambda problem: [
            config for config in configs if config not in broken and invalid_reason(config, problem) is None
        ]
    through = chosen.through or ["linear" if variants.linear_class() else "gemm"]
    if "linear" in through and not variants.linear_class():
        raise BenchError("--through linear: this version has no Linear; take gemm")
    made = {
        "linear": lambda: variants.linear_variant(),
        "linear-pdl": lambda: variants.linear_variant(name="linear-pdl", pdl=True),
        "gemm": lambda: variants.gemm_variant(),
        "gemm-pdl": lambda: variants.gemm_variant(name="gemm-pdl", pdl=True),
    }
    compile_configs(
        (choose_config(problem), problem) for problem in problems
    )  # all at once, not at first use
    return [made[name]() for name in through]


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
                seed=chosen.seed,
            )
        layers = ", ".join(map(str, model.layers))
        print(f"\n{model.name}: {model.blocks} blocks of {layers}\n{format_chain(found)}", flush=True)
    return 0


def _list_configs(problems: Sequence[GemmProblem]) -> int:
    from .variants import known_configs

    for config in dict.fromkeys(config for problem in problems for config in known_configs(problem)):
        print(config.name)
    return 0


def _plan(chosen: argparse.Namespace) -> Any:
    from .sweep import Plan

    burst = getattr(chosen, "burst", False)  # `tune` has none
    return Plan(rounds=chosen.rounds, work_us=1e3 * chosen.work_ms, burst=burst, seed=chosen.seed)


def _print_facts(facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
