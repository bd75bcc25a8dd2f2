"""What every rank of a group checks, whatever carries its sums; as a program, a rank over NCCL.

`python parallel_ranks.py` is one of the ranks that RANK and WORLD_SIZE speak of; with a number, so many ranks
are threads of this process.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import cupy
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cupy_w4a16 import Linear
from cupy_w4a16.parallel import ColumnParallel, RowParallel, column_shard, connect, row_shard
from helpers.cases import Case

# Up to eight ranks have uneven parts of these: 9 to 11 blocks of columns, 9 units of k, the last ones short.
CASES = (
    Case(5, 520, 1100),
    Case(1, 600, 1152, bias=True, zeros="uint8"),
    Case(17, 520, 1100, group_size=32, dtype="bfloat16", zeros="float", bias=True, alpha=0.5),
    Case(40, 640, 2200, group_size=256, zeros="float32", float32_out=True),
    Case(70, 520, 1100, group_size=-1, dtype="bfloat16", zeros="int8"),
)

GRAPH_CASES = Case(4, 1152, 1024), Case(4, 256, 1152, bias=True)


def check_ranks(comm: Any) -> None:
    """All that ranks do together, against float64; every rank must get the same bits."""
    for case in CASES:
        check_columns(comm, case)
        check_rows(comm, case)
    check_columns(comm, CASES[0].with_(activation="gelu"))
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
    case = Case(0, 520, 1100)
    arguments = case.arguments()
    whole = linear_of(case, arguments)
    layer, columns = rows_of(comm, whole)
    a = on_rank(comm, arguments.a)
    assert layer(a[:, columns]).shape == (0, case.n)
    assert ColumnParallel(whole, comm, gather=True)(a).shape == (0, case.n)


def check_graph(comm: Any) -> None:
    """A layer by columns and one by rows, captured once, give at each replay what calls give."""
    first, second = GRAPH_CASES
    up = ColumnParallel(linear_of(first, first.arguments()), comm, multiple_of=128)
    down = RowParallel(linear_of(second, second.arguments()), comm, multiple_of=128)
    a = on_rank(comm, first.arguments().a)
    part = cupy.empty((first.m, up.linear.out_features), np.float16)
    out, total = cupy.empty((first.m, second.n), np.float16), cupy.empty((first.m, second.n), np.float32)

    def block() -> None:
        down(up(a, out=part), out=out, total=total)

    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        block()
        expected = on_host(out)
        stream.begin_capture()
        block()
        graph = stream.end_capture()
        for _ in range(3):
            out.data.memset_async(0xFF, out.nbytes)
            graph.launch(stream)
        np.testing.assert_array_equal(on_host(out), expected)
    assert np.isfinite(expected).all()
    assert expected.any()


def shard_cases(size: int) -> list[Case]:
    """The products of all ranks' parts, so that their kernels can be compiled at once."""
    found = {GRAPH_CASES[1].with_(float32_out=True)}
    for case in (*CASES, CASES[0].with_(activation="gelu")):
        whole = linear_of(case, case.arguments())
        for rank in range(size):
            found.add(case.with_(n=column_shard(whole, rank, size).out_features))
            if case.activation is None:
                rows = row_shard(whole, rank, size).in_features
                group_size = -1 if case.group_size >= rows else case.group_size
                found.add(case.with_(k=rows, group_size=group_size, float32_out=size > 1 or case.float32_out))
    return list(found)


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


def run(rank: int | None = None, size: int | None = None) -> None:
    try:
        comm = connect(rank, size)
        check_ranks(comm)
        check_graph(comm)
        comm.barrier()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the others wait in NCCL for this rank, and so would a tidy exit


if __name__ == "__main__":
    if len(sys.argv) == 1:
        run()
    else:
        count = int(sys.argv[1])
        threads = [threading.Thread(target=run, args=(rank, count)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print("every rank agrees")
