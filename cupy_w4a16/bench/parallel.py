"""The linear layers of one 70B-shaped decoder block, cut over GPUs: `python -m cupy_w4a16.bench.parallel`.

q, k and v by columns, o by rows and an all-reduce, gate and up by columns, down by rows and an all-reduce.
Attention, norms and the activation are left out, on any number of GPUs alike: the columns of q stand for what
attention gives, those of gate for what enters down.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
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
from .._printing import failed
from ..linear import Linear
from ..parallel import ColumnParallel, Communicator, RowParallel, connect
from . import BenchError, device, machine, timing
from .arguments import check_positive, group_size_of, parse_numbers
from .ranks import ending_at_once, run_ranks
from .shapes import MODELS, calls_for, estimated_us, rotation
from .timing import Call
from .weights import random_set

MODEL = MODELS[-1]
TOKENS = "1,16,64,256"
WORK_US, EAGER_CALLS = 20_000.0, 50
LIMIT_S = 500.0  # for all tokens on one number of GPUs, compiling included: many times what it takes
# Of an rms of 1. Four layers, each rounded once here and once there, by 0.2 eps rms, make 0.6.
ERROR_EPS = 2


class Load(NamedTuple):
    """One GPU at work on its layers: µs a block, clock and power meanwhile (NaN where NVML can't say)."""

    us: float
    sm_mhz: float
    power_w: float


@dataclasses.dataclass(frozen=True)
class Row:
    """Median times of a block in µs: in a CUDA graph, launched from Python, and of its parts alone."""

    gpu: str
    gpus: int
    m: int
    graph_us: float | None
    eager_us: float
    loads: list[Load]
    all_reduce_us: float | None
    error: float

    @property
    def us(self) -> float:
        return self.eager_us if self.graph_us is None else self.graph_us

    @property
    def layers_us(self) -> float | None:
        """The slowest rank's."""
        return max((load.us for load in self.loads), default=None)


class Buffers(NamedTuple):
    """Memory for the results of one block: a graph writes it at every replay."""

    qkv: Any
    o_total: Any
    o: Any
    gate_up: Any
    down_total: Any
    down: Any


class Mute(Communicator):
    """A rank's link that sends nothing: sums are wrong, times those of the rank's own layers."""

    def all_sum(self, x: Any) -> Any:
        return x


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

    def muted(self) -> Block:
        """The same weights, and nothing sent."""
        other = copy.copy(self)
        other.o, other.down = copy.copy(self.o), copy.copy(self.down)
        other.o._comm = other.down._comm = Mute(**vars(self.o._comm))
        return other

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
        blocks = _blocks(comm, chosen)
        mute = [block.muted() for block in blocks]
        alone = _block(0, Communicator(0, 1, comm.device, None), chosen)
        for m in tokens:
            print(f"rank {comm.rank} of {comm.size}: M={m}", file=sys.stderr, flush=True)
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
            graph_us, loads, sums_us = None, [], None
            if not chosen.eager:
                layers = [partial(block, x, to) for block in mute]
                sums = 2 * [partial(comm.all_sum, cupy.zeros_like(to.down_total))]
                graph_us = _graph(calls, m, comm, stream, chosen).us
                loads = _loads(_graph(layers, m, comm, stream, chosen), comm)
                sums_us = 2 * _graph(sums, m, comm, stream, chosen).us if comm.size > 1 else None
            rows.append(Row(machine.device_name(), comm.size, m, graph_us, eager_us, loads, sums_us, error))
    return comm.rank, rows


def _blocks(comm: Communicator, chosen: argparse.Namespace) -> list[Block]:
    """A rank's parts of as many blocks as make their weights cold."""
    first = _block(0, comm, chosen)
    count = rotation(first.nbytes, machine.l2_bytes())
    return [first, *(_block(i, comm, chosen) for i in range(1, count))]


def _block(i: int, comm: Communicator, chosen: argparse.Namespace) -> Block:
    whole = _whole(chosen, chosen.seed + i * len(MODEL.layers))
    return Block(whole, comm, max(BLOCK_K, chosen.group_size))


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


def _graph(
    calls: Sequence[Call], m: int, comm: Communicator, stream: Any, chosen: argparse.Namespace
) -> timing.Timing:
    """Calls in a CUDA graph of many, once each has been called."""
    for call in calls:
        call()
    block_us = sum(estimated_us(m, *shape) for shape in MODEL.layers) / comm.size
    replay = timing.capture(calls, calls_for(block_us, len(calls), WORK_US), stream)
    comm.barrier()
    return timing.interleaved([replay], chosen.rounds, stream, chosen.seed)[0]


def _loads(own: timing.Timing, comm: Communicator) -> list[Load]:
    """Every rank's."""
    load = [math.nan if x is None else x for x in (own.us, own.sm_mhz, own.power_w)]
    return [Load(*each) for each in comm.all_gather(cupy.array(load, _dtypes.FLOAT32)).tolist()]


def format_loads(row: Row) -> list[str]:
    """A line a GPU: one that is slow, or busy with something else, holds all others up, and shows here."""
    return [
        f"GPU {i}: layers of M={row.m} in {us:.1f} µs, SM {sm_mhz:.0f} MHz, {power_w:.0f} W"
        for i, (us, sm_mhz, power_w) in enumerate(row.loads)
    ]


def format_rows(rows: Sequence[Row]) -> str:
    """A line a row under a header; `x 1 GPU`: as many times as fast, by graphs where there are any."""
    titles = f"{'GPUs':>4}{'M':>6}{'graph µs':>10}{'eager µs':>10}{'x 1 GPU':>9}"
    lines = [f"{titles}{'layers µs':>11}{'all-reduces µs':>16}{'error':>9}"]
    for row in rows:
        alone = next((each for each in rows if (each.gpus, each.m) == (1, row.m)), None)
        faster = f"{alone.us / row.us:.2f}" if alone else "-"
        times = (row.graph_us, row.eager_us, row.layers_us, row.all_reduce_us)
        graph, eager, layers, sums = ("-" if us is None else f"{us:.1f}" for us in times)
        line = f"{row.gpus:>4}{row.m:>6}{graph:>10}{eager:>10}{faster:>9}{layers:>11}{sums:>16}"
        lines.append(f"{line}{row.error:>9.1e}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; under a launcher that sets RANK it is one of its ranks, and rank 0 prints JSON lines."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _parser().parse_args(arguments)
    try:
        tokens = parse_numbers("--m", chosen.m)
        group_size_of(chosen.group_size)
        check_positive(chosen, "rounds")
        if "RANK" in os.environ:
            with ending_at_once():
                rank, rows = measure(chosen, tokens)
            if rank == 0:
                print("\n".join(json.dumps(dataclasses.asdict(row)) for row in rows))
            return 0
        command, rows = [sys.executable, "-m", "cupy_w4a16.bench.parallel", *arguments], []
        for size in parse_numbers("--gpus", chosen.gpus):
            rows += parse_rows(run_ranks(command, size, LIMIT_S))
        title = f"One block of {MODEL.name}: {', '.join(map(str, MODEL.layers))}"
        loads = format_loads(rows[-1])  # most GPUs, most tokens
        print(f"{title}; {rows[0].gpu}, {chosen.dtype}", *loads, format_rows(rows), sep="\n")
    except (BenchError, W4A16Error) as error:
        return failed(error)
    return 0


def parse_rows(printed: str) -> list[Row]:
    """The rows among the lines that rank 0 printed; libraries may have printed others."""
    fields = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    return [Row(**each | {"loads": [Load(*load) for load in each["loads"]]}) for each in fields]


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
