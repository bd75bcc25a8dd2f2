"""Rows of the benchmark, with times that are made up, and its arguments."""

from __future__ import annotations

import argparse

from cupy_w4a16._config import NAMED_CONFIGS, GemmConfig, GemmProblem
from cupy_w4a16.bench import arguments
from cupy_w4a16.bench.floor import Floor
from cupy_w4a16.bench.report import Row
from cupy_w4a16.bench.timing import Timing

LARGE, SMALL = NAMED_CONFIGS.values()
PROBLEM = GemmProblem(16, 4096, 4096)


def timing_of(us: float) -> Timing:
    return Timing(us, us, us, 100, 7, 1980, 650.0)


def row_of(us: float, config: GemmConfig = LARGE, problem: GemmProblem = PROBLEM, **peers: float) -> Row:
    peers_us = {name.replace("_", "-"): value for name, value in (peers or {"cublas": 16.0}).items()}
    return Row.measured(problem, "linear", config, timing_of(us), Floor(4.0, 700.0), peers_us, 8_650_752, 1)


def bench_arguments(words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    arguments.add_bench(parser.add_subparsers())
    return parser.parse_args(["bench", *words.split()])
