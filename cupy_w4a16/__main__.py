"""The command line, `python -m cupy_w4a16 COMMAND`: what each does stands where it is added."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from . import __version__
from ._convert import add_convert
from ._errors import W4A16Error
from ._inspect import add_inspect
from ._printing import failed
from .bench.arguments import add_bench, add_tune
from .demo.arguments import add_demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 (it failed) or 2 (mistaken or missing input).

    As a shell counts them, 130 after Ctrl-C, and 141 where the reader of the output has gone, as `head` does.
    `python -m cupy_w4a16` ends with 143 after SIGTERM, with 129 after SIGHUP.
    """
    chosen = _parser().parse_args(arguments)
    try:
        status = int(chosen.run(chosen))
        print(end="", flush=True)  # a pipe that is broken shows here, not at exit
        return status
    except W4A16Error as error:
        return failed(error, 1)
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

    add_demo(commands)
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


def _info(chosen: argparse.Namespace) -> int:
    from ._info import format_info

    print(format_info())
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


def _end(number: int, frame: FrameType | None) -> None:
    """Leave so that what is half written is removed; a second signal ends at once, were a kernel to hang."""
    signal.signal(number, signal.SIG_DFL)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` leaves it
            signal.signal(number, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in the background
        signal.signal(signal.SIGINT, _end)
    sys.exit(main())
