"""What every rank of a group checks, whatever carries its sums; as a program, a rank over NCCL.

`python parallel_ranks.py` is one of the ranks that RANK and WORLD_SIZE speak of.
"""

from __future__ import annotations

import faulthandler
import sys
import time
from pathlib import Path
from typing import Any

import cupy
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cupy_w4a16 import GemmProblem, Linear, choose_config
from cupy_w4a16._kernels import Kernel, kernel_for
from cupy_w4a16._normalised import takes_normalised
from cupy_w4a16._pdl import LINEAR_DEFAULT, wanted
from cupy_w4a16.bench.ranks import ending_at_once
from cupy_w4a16.parallel import ColumnParallel, Communicator, RowParallel, column_shard, connect, row_shard
from helpers.cases import Case

LIMIT_S = 90.0  # for a rank over NCCL: many times what it takes; where it stands is said before that

# Up to eight ranks have uneven parts of these: 9 blocks of columns, 9 units of k, the last ones short. Each
# hazard is here once, and the kernels are few: mma with groups of two blocks, zeros and bias; wgmma with one
# group and private scales; wgmma with an `a` that is copied, as its rows are no multiples of 16 bytes.
ZEROS = Case(5, 520, 2200, group_size=256, zeros="uint8", bias=True)
CASES = (
    ZEROS,
    ZEROS.with_(activation="gelu"),
    Case(70, 520, 1104, group_size=-1, float32_out=True),
    Case(70, 520, 1100, group_size=32, dtype="bfloat16", zeros="float", bias=True, alpha=0.5),
)
GRAPH_CASES = Case(5, 1152, 1024, zeros="uint8"), Case(5, 256, 1152, zeros="uint8", bias=True)

STARTED = time.monotonic()


def check_ranks(comm: Any) -> None:
    """All that ranks do together, against float64; every rank must get the same bits."""
    for case in CASES:
        say(comm, f"columns of {case}")
        check_columns(comm, case)
        if case.activation is None:
            say(comm, f"rows of {case}")
            check_rows(comm, case)
    say(comm, "no tokens")
    check_empty(comm)


def check_columns(comm: Any, case: Case) -> None:
    arguments = case.arguments()
    a, whole = on_rank(comm, arguments.a), linear_of(case, arguments)
    c = ColumnParallel(whole, comm, gather=True)(a)
    check_result(comm, c, case, arguments)
    part = ColumnParallel(whole, comm)(a)
    start = sum(column_shard(whole, rank, comm.size).out_features for rank in range(comm.rank))
    np.testing.assert_array_equal(on_host(part), on_host(c)[:, start : start + part.shape[1]])


def check_rows(comm: Any, case: Case) -> None:
    arguments = case.arguments()
    layer, columns = rows_of(comm, linear_of(case, arguments))
    a = on_rank(comm, arguments.a)[:, columns]  # rows of the whole's stride
    c = layer(a)
    check_result(comm, c, case, arguments)
    xp = np if comm.device is None else cupy
    out, total = xp.empty_like(c), xp.empty(c.shape, np.float32)
    assert layer(a, out=out, total=total) is out
    np.testing.assert_array_equal(on_host(out), on_host(c))


def check_empty(comm: Any) -> None:
    """No tokens: nothing to send, and nobody waits."""
    case = ZEROS.with_(m=0)
    arguments = case.arguments()
    whole = linear_of(case, arguments)
    layer, columns = rows_of(comm, whole)
    a = on_rank(comm, arguments.a)
    assert layer(a[:, columns]).shape == (0, case.n)
    assert ColumnParallel(whole, comm, gather=True)(a).shape == (0, case.n)


def check_graph(comm: Any) -> None:
    """A layer by columns and one by rows, captured once, give at each replay what calls give."""
    first, second = GRAPH_CASES
    up, down = graph_layers(comm)
    a = on_rank(comm, first.arguments().a)
    part = cupy.empty((first.m, up.linear.out_features), np.float16)
    out, total = cupy.empty((first.m, second.n), np.float16), cupy.empty((first.m, second.n), np.float32)

    def block() -> None:
        down(up(a, out=part), out=out, total=total)

    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        say(comm, "calls to capture")
        block()
        expected = on_host(out)
        say(comm, "capture")
        stream.begin_capture()
        block()
        graph = stream.end_capture()
        say(comm, "replays")
        for _ in range(3):
            out.data.memset_async(0xFF, out.nbytes)
            graph.launch(stream)
        np.testing.assert_array_equal(on_host(out), expected)
    assert np.isfinite(expected).all()
    assert expected.any()


def graph_layers(comm: Any) -> tuple[ColumnParallel, RowParallel]:
    first, second = (linear_of(case, case.arguments()) for case in GRAPH_CASES)
    return ColumnParallel(first, comm, multiple_of=128), RowParallel(second, comm, multiple_of=128)


def shard_kernels(size: int) -> set[Kernel]:
    """The kernels of all ranks' parts, so that they can be compiled at once."""
    found = set()
    for rank in range(size):
        comm = Communicator(rank, size, device=None, backend=None)
        for case in CASES:
            whole = linear_of(case, case.arguments())
            found.add(kernel_of(case.m, ColumnParallel(whole, comm).linear))
            if case.activation is None:
                found.add(kernel_of(case.m, RowParallel(whole, comm).linear))
        found |= {kernel_of(GRAPH_CASES[0].m, layer.linear) for layer in graph_layers(comm)}
    return found


def kernel_of(m: int, linear: Linear) -> Kernel:
    zeros = None if linear.zeros is None else linear.zeros.dtype.name
    shape = m, linear.out_features, linear.in_features, linear.group_size
    problem = GemmProblem(*shape, linear.scales.dtype.name, zeros, linear.dtype.name)
    config = choose_config(problem, pdl=wanted(LINEAR_DEFAULT))
    return kernel_for(config, problem, linear.activation, takes_normalised(config, problem))


def linear_of(case: Case, arguments: Any) -> Linear:
    _, b_packed, scales, zeros, bias = arguments
    return Linear(
        b_packed, scales, zeros, case.group_size, k=case.k, bias=bias, dtype=case.out_dtype, **case.options
    )


def rows_of(comm: Any, whole: Linear) -> tuple[RowParallel, slice]:
    """A rank's layer, and the columns of `a` that it takes."""
    sizes = [row_shard(whole, rank, comm.size).in_features for rank in range(comm.size)]
    assert sum(sizes) == whole.in_features
    layer = RowParallel(whole, comm)
    start = sum(sizes[: comm.rank])
    return layer, slice(start, start + sizes[comm.rank])


def check_result(comm: Any, c: Any, case: Case, arguments: Any) -> None:
    """The same bits on every rank, and within the bounds of one."""
    for other in comm.all_gather(c.view(np.int8)):
        np.testing.assert_array_equal(on_host(other), on_host(c.view(np.int8)))
    if comm.rank == 0:
        case.check(on_host(c), arguments)


def on_rank(comm: Any, x: Any) -> Any:
    return x if comm.device is None else cupy.asarray(x)


def on_host(x: Any) -> Any:
    return x if isinstance(x, np.ndarray) else cupy.asnumpy(x)


def say(comm: Any, what: str) -> None:
    """Where a rank stands: the last line it printed, should it fail or wait for ever."""
    print(f"{time.monotonic() - STARTED:5.1f} s, rank {comm.rank} of {comm.size}: {what}", flush=True)


def main() -> None:
    faulthandler.dump_traceback_later(0.8 * LIMIT_S)
    with ending_at_once():
        print("connects", flush=True)
        comm = connect()
        check_ranks(comm)
        check_graph(comm)
        say(comm, "barrier")
        comm.barrier()
    print("every rank agrees")


if __name__ == "__main__":
    main()
