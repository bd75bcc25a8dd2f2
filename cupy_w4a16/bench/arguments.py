"""The arguments of `bench` and `tune`, and the products they name; imports nothing that measures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from .._config import GemmProblem
from . import BenchError
from .shapes import MODEL_SHAPES, MODELS, TOKENS, Model, Shape, parse_shapes

CHAIN_TOKENS = (1, 16, 64)
HOST_SHAPES, HOST_TOKENS = (Shape(4096, 4096),), (1,)
TUNED_VARIANTS = ("linear", "linear-pdl")  # one of each kind of launch
ZEROS = ("none", "integer", "float")

_PRODUCTS = ("shapes", "m", "group_size", "dtype", "zeros")
#: What `bench` looks at where it prints something else than the table, which takes all but `--sms`.
TAKEN = {
    "fit": ("sms",),
    "list_configs": _PRODUCTS,
    "host": _PRODUCTS,
    "chain": ("shapes", "m", "group_size", "dtype", "rounds", "rest", "seed"),
    "quantize": ("group_size", "dtype", "rounds", "seed"),
}


def add_bench(commands: Any) -> None:
    """Add `bench` to the command line."""
    bench = commands.add_parser(
        "bench",
        help="time the kernels beside cuBLAS on this GPU",
        description="Time Linear on this GPU beside cuBLAS FP16: CUDA graphs of many calls over rotating "
        "weights that come cold from memory, in random order, medians. Every result is checked before it is "
        "timed. A line a point: µs, TFLOPS, GB/s, times as fast as cuBLAS, and times as long as the floor: "
        "the larger of a cold read of the weights, measured here too, and the arithmetic at the best rate "
        "that cuBLAS reached. Needs cuBLAS (extra [bench]).",
    )
    _add_problem(bench, shapes="linear layers of Llama-3.1-8B and 70B")
    what = bench.add_argument_group("what is timed")
    which = what.add_mutually_exclusive_group()
    which.add_argument(
        "--config", nargs="+", default=(), metavar="NAME",
        help="these configs, by name or by fields such as tile_n=256,tile_m=64 (default: what the call gets)",
    )  # fmt: skip
    which.add_argument(
        "--all-configs",
        action="store_true",
        help="every valid config: a short first look, then the best in full; all of them go to --csv",
    )
    which.add_argument(
        "--list-configs", action="store_true", help="name the valid configs and end; needs no GPU"
    )
    what.add_argument(
        "--through", nargs="+", choices=("linear", "gemm", "linear-pdl", "gemm-pdl"), metavar="VARIANT",
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
    _add_procedure(how)
    output = bench.add_argument_group("output")
    output.add_argument("--csv", metavar="FILE", help="write a row a line, as they are measured")
    output.add_argument("--plot", metavar="FILE.png", help="draw time against M")
    other = bench.add_argument_group("instead of the table")
    other.add_argument(
        "--host",
        action="store_true",
        help=f"host time of a call: 1,000 queued (default {HOST_SHAPES[0]}, M={HOST_TOKENS[0]})",
    )
    other.add_argument(
        "--chain", action="store_true",
        help="tokens a second that linear layers allow, each fed by the one before, FP16 against 4 bits: "
        "those of Llama-3.1-8B and 70B, or --shapes as one block, in their order "
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
    bench.set_defaults(run=_run("bench"), defaults=bench.parse_args([]))


def add_tune(commands: Any) -> None:
    """Add `tune` to the command line."""
    tune = commands.add_parser(
        "tune",
        help="find the fastest kernel for your shapes and keep it",
        description="Time Linear with the valid configs for your shapes on this GPU, without dependent "
        "launch and with it, and keep the fastest of each in a file beside the compiled kernels; from then "
        "on Linear and gemm use them for launches of that kind. A number of tokens that was not tuned uses "
        "the next larger one, up to twice its size. Needs cuBLAS (extra [bench]).",
    )
    _add_problem(tune, shapes=None)
    tune.add_argument(
        "--through", nargs="+", choices=TUNED_VARIANTS, default=TUNED_VARIANTS, metavar="VARIANT",
        help="linear, linear-pdl (with dependent launch) or both: the kinds of launch to tune for (default: "
        "both; with CUPY_W4A16_PDL=0, linear)",
    )  # fmt: skip
    _add_rest(tune)
    _add_procedure(tune)
    tune.set_defaults(run=_run("tune"))


def _add_problem(parser: Any, shapes: str | None) -> None:
    group = parser.add_argument_group("products")
    default = f" (default: {shapes})" if shapes else ""
    tokens = f"{','.join(map(str, TOKENS[:3]))},...,{TOKENS[-1]}"
    group.add_argument(
        "--shapes", metavar="NxK,...", required=shapes is None,
        help=f"output x input features of the weights{default}",
    )  # fmt: skip
    group.add_argument("--m", metavar="M,...", help=f"numbers of tokens (default: {tokens})")
    group.add_argument(
        "--group-size", default="128", metavar="G,...",
        help="weights per scale: powers of two from 32, or -1 for whole columns (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--dtype", choices=("float16", "bfloat16"), default="float16", help="default: %(default)s"
    )
    group.add_argument(
        "--zeros", default="none", metavar="KIND,...",
        help=f"zero points: {', '.join(ZEROS)} (default: none, symmetric)",
    )  # fmt: skip


def _add_rest(group: Any) -> None:
    group.add_argument(
        "--rest", type=float, default=3.0, metavar="X",
        help="rest before each graph, as a multiple of its time (default: %(default)s: a cool GPU at its "
        "full clock; 0: back to back, so that large products compare how much power kernels draw)",
    )  # fmt: skip


def _add_procedure(group: Any) -> None:
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


def check_taken(chosen: argparse.Namespace) -> None:
    """BenchError for an option of `bench` that what is asked for would not look at."""
    asked = next((name for name in TAKEN if getattr(chosen, name)), None)
    for name, default in vars(chosen.defaults).items():
        if name == asked or getattr(chosen, name) == default:
            continue
        if asked is None and name == "sms":
            raise BenchError("--sms is for --fit")
        if asked is not None and name not in TAKEN[asked]:
            taken = ", ".join(map(_option, TAKEN[asked]))
            raise BenchError(f"{_option(asked)} does not take {_option(name)}, but {taken}")


def models_of(chosen: argparse.Namespace) -> tuple[Model, ...]:
    """The models whose layers `--chain` runs through, or one block of `--shapes`."""
    if not chosen.shapes:
        return MODELS
    layers = parse_shapes(chosen.shapes)
    for before, layer in zip((layers[-1], *layers[:-1]), layers, strict=True):
        if before.n < layer.k:
            raise BenchError(
                f"--shapes {chosen.shapes}: with --chain each layer's result is the next one's input, and "
                f"the last one's the first's; {before} gives {before.n} features, {layer} takes {layer.k}"
            )
    return (Model("--shapes", 1, layers),)


def problems_of(
    chosen: argparse.Namespace, shapes: Sequence[Shape] = MODEL_SHAPES, tokens: Sequence[int] = TOKENS
) -> list[GemmProblem]:
    """The products that the arguments name, or by default these, shape by shape and kind by kind."""
    if chosen.shapes:
        shapes = list(dict.fromkeys(parse_shapes(chosen.shapes)))
    if chosen.m:
        tokens = parse_numbers("--m", chosen.m)
    group_sizes, zeros = group_sizes_of(chosen), _zeros_of(chosen)
    check_positive(chosen, "rounds", "work_ms")
    if not 0 <= chosen.rest < math.inf:
        raise BenchError(
            f"--rest is {chosen.rest}: rests are a multiple, 0 or more, of a graph's time; 3 keeps it cool"
        )
    return [
        GemmProblem(m, n, k, group_size, chosen.dtype, zero, chosen.dtype)
        for n, k in shapes
        for group_size in group_sizes
        for zero in zeros
        for m in tokens
    ]


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers that an option lists, above 0, in rising order.

    >>> parse_numbers("--m", "16,1")
    (1, 16)
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise BenchError(
            f"{option} is {text!r}: it takes whole numbers above 0 with commas between, such as 1,2,16"
        )
    return tuple(sorted({int(word) for word in words}))


def group_sizes_of(chosen: argparse.Namespace) -> list[int]:
    """The group sizes that `--group-size` lists."""
    return list(dict.fromkeys(map(group_size_of, chosen.group_size.split(","))))


def one_group_size(chosen: argparse.Namespace) -> int:
    """`--group-size`, where it may not be a list."""
    found = group_sizes_of(chosen)
    if len(found) > 1:
        raise BenchError(f"--group-size {chosen.group_size}: --chain and --quantize take one")
    return found[0]


def group_size_of(word: str | int) -> int:
    """A group size of the command line, checked."""
    from .._group_size import check_group_size

    try:
        return check_group_size(int(word))
    except ValueError as error:
        raise BenchError(f"--group-size: {error}") from error


def _zeros_of(chosen: argparse.Namespace) -> list[str | None]:
    """The dtypes of the zeros that `--zeros` lists; None where there are none."""
    dtypes = {"none": None, "integer": "uint8", "float": chosen.dtype}
    words = [word.strip() for word in chosen.zeros.split(",")]
    if not dtypes.keys() >= set(words):
        raise BenchError(f"--zeros is {chosen.zeros!r}: it takes {', '.join(ZEROS)}, with commas between")
    return [dtypes[word] for word in dict.fromkeys(words)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_positive(chosen: argparse.Namespace, *names: str) -> None:
    """BenchError for one of these numbers that is not above 0."""
    for name in names:
        if getattr(chosen, name) <= 0:
            raise BenchError(f"{_option(name)} is {getattr(chosen, name)}: it must be above 0")


def _run(command: str) -> Callable[[argparse.Namespace], int]:
    def run(chosen: argparse.Namespace) -> int:
        from .command import run_command

        return run_command(command, chosen)

    return run
