"""The arguments of `bench` and `tune`, and the products they name; imports nothing that measures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from .._config import GemmProblem
from . import BenchError
from .shapes import MODEL_SHAPES, TOKENS, parse_shapes, parse_tokens

CHAIN_TOKENS = (1, 16, 64)
TUNED_CALLS = ("linear", "linear-pdl")  # one of each kind of launch
ZEROS = ("none", "integer", "float")


def add_bench(commands: Any) -> None:
    """Add `bench` to the command line."""
    bench = commands.add_parser(
        "bench",
        help="time the kernels beside cuBLAS on this GPU",
        description="Time Linear on this GPU beside cuBLAS FP16: CUDA graphs of many calls over rotating "
        "weights that come cold from memory, in random order, medians. Every result is checked before it is "
        "timed. A line a point: µs, TFLOPS, GB/s, times as fast as cuBLAS, and times as long as the floor: "
        "the larger of a cold read of the weights, measured here too, and the arithmetic at the best rate "
        "that cuBLAS reached.",
    )
    _add_problem(bench, shapes="linear layers of Llama-3.1-8B and 70B", tokens="1,2,4,...,8192")
    what = bench.add_argument_group("what is timed")
    what.add_argument(
        "--config", nargs="+", default=(), metavar="NAME",
        help="these configs, by name or by fields such as tile_n=256,tile_m=64 (default: what the call gets)",
    )  # fmt: skip
    what.add_argument(
        "--all-configs",
        action="store_true",
        help="every valid config: a short first look, then the best in full; all of them go to --csv",
    )
    what.add_argument(
        "--list-configs", action="store_true", help="name the valid configs and end; needs no GPU"
    )
    what.add_argument(
        "--through", nargs="+", choices=("linear", "gemm", "linear-pdl", "gemm-pdl"), metavar="CALL",
        help="linear, gemm, linear-pdl or gemm-pdl (with dependent launch): the call that makes the products "
        "(default: linear)",
    )  # fmt: skip
    what.add_argument(
        "--peers", nargs="*", choices=("cublas", "cublas-nk", "humming"), metavar="PEER",
        help="compare with cublas, cublas-nk (weights stored (n, k)), humming "
        "(default: cublas, and humming where it is installed)",
    )  # fmt: skip
    how = bench.add_argument_group("how")
    state = how.add_mutually_exclusive_group()
    state.add_argument(
        "--burst", action="store_true", help="bursts of 0.1 s a kernel, no rests: at the power cap"
    )
    _add_rest(state)
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
    other.add_argument(
        "--quantize",
        action="store_true",
        help="how long quantize takes for all linear layers of Llama-3.1-8B, by each method, and its memory",
    )
    other.add_argument(
        "--fit", nargs="+", metavar="FILE.csv",
        help="fit the heuristic's time model to times of --all-configs --csv, print its table and how good "
        "its choices are; needs no GPU",
    )  # fmt: skip
    other.add_argument(
        "--sms", type=int, default=132, metavar="S",
        help="multiprocessors of the GPU that was measured, for --fit (default: %(default)s)",
    )  # fmt: skip
    bench.set_defaults(run=_run("bench"))


def add_tune(commands: Any) -> None:
    """Add `tune` to the command line."""
    tune = commands.add_parser(
        "tune",
        help="find the fastest kernel for your shapes and keep it",
        description="Time Linear with the valid configs for your shapes on this GPU, without dependent "
        "launch and with it, and keep the fastest of each in a file beside the compiled kernels; from then "
        "on Linear and gemm use them for launches of that kind. A number of tokens that was not tuned uses "
        "the next larger one, up to twice its size.",
    )
    _add_problem(tune, shapes=None, tokens="1,2,4,...,8192")
    tune.add_argument(
        "--through", nargs="+", choices=TUNED_CALLS, default=TUNED_CALLS, metavar="CALL",
        help="linear, linear-pdl (with dependent launch) or both: the kinds of launch to tune for (default: "
        "both; with CUPY_W4A16_PDL=0, linear)",
    )  # fmt: skip
    _add_rest(tune)
    _add_plan(tune)
    tune.set_defaults(run=_run("tune"))


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


def _add_rest(group: Any) -> None:
    group.add_argument(
        "--rest", type=float, default=3.0, metavar="X",
        help="rest before each graph, as a multiple of its time (default: %(default)s: a cool GPU at its "
        "full clock; 0: back to back, so that large products compare how much power kernels draw)",
    )  # fmt: skip


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


def problems_of(chosen: argparse.Namespace) -> list[GemmProblem]:
    """The products that the arguments name, shape by shape."""
    shapes = parse_shapes(chosen.shapes) if chosen.shapes else MODEL_SHAPES
    tokens = parse_tokens(chosen.m) if chosen.m else TOKENS
    group_size = group_size_of(chosen)
    check_positive(chosen, "rounds", "work_ms")
    if not 0 <= chosen.rest < math.inf:
        raise BenchError(
            f"--rest is {chosen.rest}: rests are a multiple, 0 or more, of a graph's time; 3 keeps it cool"
        )
    zeros = {"none": None, "integer": "uint8", "float": chosen.dtype}[chosen.zeros]
    return [
        GemmProblem(m, n, k, group_size, chosen.dtype, zeros, chosen.dtype) for n, k in shapes for m in tokens
    ]


def group_size_of(chosen: argparse.Namespace) -> int:
    """`--group-size`, checked."""
    from .._group_size import check_group_size

    try:
        return check_group_size(chosen.group_size)
    except ValueError as error:
        raise BenchError(f"--group-size: {error}") from error


def check_positive(chosen: argparse.Namespace, *names: str) -> None:
    """BenchError for one of these numbers that is not above 0."""
    for name in names:
        if getattr(chosen, name) <= 0:
            raise BenchError(f"--{name.replace('_', '-')} is {getattr(chosen, name)}: it must be above 0")


def _run(command: str) -> Callable[[argparse.Namespace], int]:
    def run(chosen: argparse.Namespace) -> int:
        from .command import run_command

        return run_command(command, chosen)

    return run
