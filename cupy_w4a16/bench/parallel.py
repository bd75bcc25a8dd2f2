"""The linear layers of one 70B-shaped decoder block, cut over GPUs: `python -m cupy_w4a16.bench.parallel`.

q, k and v by columns, o by rows and an all-reduce, gate and up by columns, down by rows and an all-reduce.
Attention, norms and the activation are left out, on any number of GPUs alike: the columns of q stand for what
attention gives, those of gate for what enters down.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import cupy
import ml_dtypes

from .. import _dtypes
from .._config import GemmProblem
from .._errors import W4A16Error
from .._pack import BLOCK_K
from ..linear import Linear
from ..parallel import ColumnParallel, Communicator, RowParallel, connect
from . import BenchError, device, machine, timing
from .arguments import check_positive, group_size_of
from .ranks import run_ranks
from .shapes import MODELS, calls_for, estimated_us, parse_tokens, rotation
from .timing import Call
from .weights import random_set

MODEL = MODELS[-1]
TOKENS = "1,16,64,256"
WORK_US, EAGER_CALLS = 20_000.0, 50
LIMIT_S = 500.0  # for all tokens on one number of GPUs, compiling included: many times what it takes
# Of an rms of 1. Four layers, each rounded once here and once there, by 0.2 eps rms, make 0.6.
ERROR_EPS = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """Median times of a block in µs: in a CUDA graph, launched from Python, and of its all-reduces alone."""

    gpu: str
    gpus: int
    m: int
    graph_us: float | None
    eager_us: float
    all_reduce_us: float | None
    error: float

    @property
    def us(self) -> float:
        return self.eager_us if self.graph_us is None else self.graph_us


class Buffers(NamedTuple):
    """Memory for the results of one block: a graph writes it at every replay."""

    qkv: Any
    o_total: Any
    o: Any
    gate_up: Any
    down_total: Any
    down: Any


class Block:
    """A rank's part of the four layers; `whole` are q, k and v in one, o, gate and up in one, down."""

    def __init__(self, whole: Sequence[Linear], comm: Communicator, multiple_of: int) -> None:
        qkv, o, gate_up, down = whole
        kv = (qkv.out_features - o.in_features) // 2
        # Cut alike, so that what `o` and `down` read is what their rank computed.
        self.qkv = ColumnParallel(qkv, comm, fused=(o.in_features, kv, kv), multiple_of=multiple_of)
        self.o = RowParallel(o, comm, multiple_of=multiple_of)
        self.gate_up = ColumnParallel(gate_up, comm, fused=2 * (down.in_features,), multiple_of=multiple_of)
        self.down = RowParallel(down, comm, multiple_of=multiple_of)

    @property
    def nbytes(self) -> int:
        return sum(layer.linear.nbytes for layer in (self.qkv, self.o, self.gate_up, self.down))

    def buffers(self, xp: Any, m: int) -> Buffers:
        layers = (self.qkv, self.o, self.o, self.gate_up, self.down, self.down)
        dtypes = (
            self.qkv.linear.dtype, _dtypes.FLOAT32, self.o.dtype,
            self.gate_up.linear.dtype, _dtypes.FLOAT32, self.down.dtype,
        )  # fmt: skip
        sizes = (layer.linear.out_features for layer in layers)
        return Buffers(*(xp.empty((m, n), dtype) for n, dtype in zip(sizes, dtypes, strict=True)))

    def __call__(self, x: Any, to: Buffers) -> Any:
        """The block's result, the same on every rank, in `to.down`."""
        self.qkv(x, out=to.qkv)
        attention = to.qkv[:, : self.o.linear.in_features]
        self.o(attention, out=to.o, total=to.o_total)
        self.gate_up(to.o, out=to.gate_up)
        gate = to.gate_up[:, : self.down.linear.in_features]
        return self.down(gate, out=to.down, total=to.down_total)


def measure(chosen: argparse.Namespace, tokens: Sequence[int]) -> tuple[int, list[Row]]:
    """This rank, and its rows, one a number of tokens; each result is compared with that of one GPU first."""
    comm = connect()
    machine.require_gpu("bench.parallel")
    rows = []
    stream = cupy.cuda.Stream(non_blocking=True)
    with machine.watched(), stream:
        blocks, alone = _blocks(comm, chosen)
        for m in tokens:
            x = cupy.empty((m, blocks[0].qkv.linear.in_features), blocks[0].o.dtype)
            device.fill_normal(x, chosen.seed)
            to = blocks[0].buffers(cupy, m)
            expected = alone(x, alone.buffers(cupy, m)).astype(_dtypes.FLOAT32)
            error = device.worst_tile_error(blocks[0](x, to), expected)
            limit = ERROR_EPS * float(ml_dtypes.finfo(x.dtype).eps)
            if not error <= limit:
                raise BenchError(
                    f"{comm.size} GPUs, M={m}: the result is off by {error:.2g}; {limit:.2g} is right"
                )
            calls = [partial(block, x, to) for block in blocks]
            eager_us = _eager_us(calls, comm, stream, chosen.rounds)
            graph_us = None if chosen.eager else _graph_us(calls, m, comm, stream, chosen)
            zeros = cupy.zeros_like(to.down_total)
            sums = 2 * [partial(comm.all_sum, zeros)]
            sums_us = None if chosen.eager or comm.size == 1 else 2 * _graph_us(sums, m, comm, stream, chosen)
            rows.append(Row(machine.device_name(), comm.size, m, graph_us, eager_us, sums_us, error))
    return comm.rank, rows


def _blocks(comm: Communicator, chosen: argparse.Namespace) -> tuple[list[Block], Block]:
    """A rank's parts of as many blocks as make their weights cold, and the first block on this GPU alone."""
    multiple_of = max(BLOCK_K, chosen.group_size)
    first = _whole(chosen, chosen.seed)
    blocks = [Block(first, comm, multiple_of)]
    for i in range(1, rotation(blocks[0].nbytes, machine.l2_bytes())):
        blocks.append(Block(_whole(chosen, chosen.seed + i * len(MODEL.layers)), comm, multiple_of))
    return blocks, Block(first, Communicator(0, 1, comm.device, None), multiple_of)


def _whole(chosen: argparse.Namespace, seed: int) -> list[Linear]:
    made = []
    for i, (n, k) in enumerate(MODEL.layers):
        packed = random_set(GemmProblem(1, n, k, chosen.group_size, chosen.dtype), seed + i)
        made.append(Linear(packed.b_packed, packed.scales, None, chosen.group_size, k=k))
    return made


def _eager_us(calls: Sequence[Call], comm: Communicator, stream: Any, rounds: int) -> float:
    """µs a call launched from Python until the GPU has done it: the same number of calls on every rank."""
    times = []
    for _ in range(rounds):
        comm.barrier()
        start = time.perf_counter()
        for i in range(EAGER_CALLS):
            calls[i % len(calls)]()
        stream.synchronize()
        times.append((time.perf_counter() - start) / EAGER_CALLS * 1e6)
    return statistics.median(times)


def _graph_us(
    calls: Sequence[Call], m: int, comm: Communicator, stream: Any, chosen: argparse.Namespace
) -> float:
    """µs a call in a CUDA graph of many."""
    block_us = sum(estimated_us(m, *shape) for shape in MODEL.layers) / comm.size
    replay = timing.capture(calls, calls_for(block_us, len(calls), WORK_US), stream)
    comm.barrier()
    return timing.interleaved([replay], chosen.rounds, stream, chosen.seed)[0].us


def format_rows(rows: Sequence[Row]) -> str:
    """A line a row under a header; `x 1 GPU`: as many times as fast, by graphs where there are any."""
    titles = f"{'GPUs':>4}{'M':>6}{'graph µs':>10}{'eager µs':>10}{'x 1 GPU':>9}{'all-reduces µs':>16}"
    lines = [f"{titles}{'error':>9}"]
    for row in rows:
        alone = next((each for each in rows if (each.gpus, each.m) == (1, row.m)), None)
        faster = f"{alone.us / row.us:.2f}" if alone else "-"
        graph, sums = (f"{us:.1f}" if us is not None else "-" for us in (row.graph_us, row.all_reduce_us))
        lines.append(
            f"{row.gpus:>4}{row.m:>6}{graph:>10}{row.eager_us:>10.1f}{faster:>9}{sums:>16}{row.error:>9.1e}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; under a launcher that sets RANK it is one of its ranks, and rank 0 prints JSON lines."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _parser().parse_args(arguments)
    try:
        tokens = parse_tokens(chosen.m)
        group_size_of(chosen)
        check_positive(chosen, "rounds")
        if "RANK" in os.environ:
            rank, rows = measure(chosen, tokens)
            if rank == 0:
                print("\n".join(json.dumps(dataclasses.asdict(row)) for row in rows))
            return 0
        command, rows = [sys.executable, "-m", "cupy_w4a16.bench.parallel", *arguments], []
        for size in parse_counts(chosen.gpus):
            rows += parse_rows(run_ranks(command, size, LIMIT_S))
        print(
            f"One block of {MODEL.name}: {', '.join(map(str, MODEL.layers))}; {rows[0].gpu}, {chosen.dtype}"
        )
        print(format_rows(rows))
    except (BenchError, W4A16Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse_counts(text: str) -> list[int]:
    """Numbers of GPUs from "1,2,4".

    >>> parse_counts("2,1")
    [1, 2]
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise BenchError(f"--gpus is {text!r}: numbers of GPUs with commas between, such as 1,2,4")
    return sorted({int(word) for word in words})


def parse_rows(printed: str) -> list[Row]:
    """The rows among the lines that rank 0 printed; libraries may have printed others."""
    return [Row(**json.loads(line)) for line in printed.splitlines() if line.startswith("{")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cupy_w4a16.bench.parallel",
        description="Time the linear layers of a Llama-3.1-70B block cut over GPUs, by columns and rows with "
        "NCCL all-reduces, after checking the result against one GPU's. Medians, weights cold.",
    )
    add, default = parser.add_argument, "default: %(default)s"
    add("--gpus", default="1,2", metavar="P,...", help=f"numbers of GPUs ({default})")
    add("--m", default=TOKENS, metavar="M,...", help=f"numbers of tokens ({default})")
    add("--group-size", type=int, default=128, metavar="G", help=default)
    add("--dtype", choices=("float16", "bfloat16"), default="float16", help=default)
    add("--rounds", type=int, default=7, metavar="R", help=f"medians of R ({default})")
    add("--seed", type=int, default=0, metavar="S", help=f"of weights ({default})")
    add("--eager", action="store_true", help="launch from Python alone, no CUDA graphs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
