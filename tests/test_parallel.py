"""Layers cut over ranks are the whole layer, on NumPy with a communicator of threads, on GPUs over NCCL."""

from __future__ import annotations

import itertools
import json
import pickle
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import cupy
import ml_dtypes
import numpy as np
import pytest
from helpers.cases import compile_for
from helpers.fake_ranks import on_ranks
from helpers.parallel_ranks import check_ranks, shard_cases

from cupy_w4a16 import Linear, W4A16Error, pack, quantize
from cupy_w4a16.bench import BenchError
from cupy_w4a16.bench import parallel as bench
from cupy_w4a16.bench.ranks import run_ranks
from cupy_w4a16.parallel import (
    ColumnParallel,
    Communicator,
    RowParallel,
    column_shard,
    connect,
    map_rows,
    ranks,
    row_shard,
)
from cupy_w4a16.testing import make_problem

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PROGRAM = Path(__file__).parent / "helpers/parallel_ranks.py"
LIMIT_S = 240.0  # for ranks on GPUs: many times what they take
ALONE = Communicator(rank=0, size=1, device=None, backend=None)


def whole_numbers(
    n: int = 200, k: int = 640, group_size: int = 128, zeros: bool = False, **options: Any
) -> tuple[Any, Linear]:
    """Activations and a `Linear` whose float32 sums are exact in any order, and too large for float16."""
    rng = np.random.default_rng(1)
    rows = 1 if group_size == -1 else -(-k // group_size)
    q = rng.integers(0, 16, (k, n), dtype=np.uint8)
    scales = rng.choice([-1, 1, 2], (rows, n)).astype(np.float16)
    zero = rng.integers(0, 17, (rows, n), dtype=np.uint8) if zeros else None
    options = {"bias": rng.integers(-4, 5, n).astype(np.float16), **options}
    a = rng.integers(-30, 31, (3, k)).astype(np.float16)
    return a, Linear(pack(q), scales, zero, group_size, k=k, **options)


# ------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("group_size", [32, 256, -1])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_columns_side_by_side_are_the_whole(size: int, group_size: int, zeros: bool) -> None:
    a, whole = whole_numbers(group_size=group_size, zeros=zeros, activation="relu")
    parts = [column_shard(whole, rank, size) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate([part(a) for part in parts], axis=1), whole(a))
    blocks = [-(-part.out_features // 64) for part in parts]
    assert max(blocks) - min(blocks) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_fused_layers_are_cut_each_by_itself(size: int) -> None:
    widths = (384, 192, 200)
    a, whole = whole_numbers(sum(widths), zeros=True)
    c = whole(a)
    pieces = np.split(c, np.cumsum(widths)[:-1], axis=1)
    found = [column_shard(whole, rank, size, fused=widths)(a) for rank in range(size)]
    for rank in range(size):
        units = [-(-width // 64) for width in widths]
        sizes = [[64 * (unit // size + (other < unit % size)) for other in range(size)] for unit in units]
        expected = [
            piece[:, sum(own[:rank]) : sum(own[: rank + 1])] for piece, own in zip(pieces, sizes, strict=True)
        ]
        np.testing.assert_array_equal(found[rank], np.concatenate(expected, axis=1))
    assert sum(each.shape[1] for each in found) == sum(widths)


def test_columns_follow_a_permutation_and_rows_refuse_it() -> None:
    a, plain = whole_numbers()
    whole = plain._again(perm=np.random.default_rng(3).permutation(640))
    expected = whole(a)
    assert (expected != plain(a)).any()
    parts = [column_shard(whole, rank, 2, fused=(128, 72)) for rank in (0, 1)]
    found = np.concatenate([part(a) for part in parts], axis=1)
    np.testing.assert_array_equal(
        found, expected[:, [*range(64), *range(128, 192), *range(64, 128), *range(192, 200)]]
    )
    with pytest.raises(ValueError, match="perm"):
        row_shard(whole, 0, 2)


def test_heads_stay_together() -> None:
    _, whole = whole_numbers(5 * 128)
    assert [column_shard(whole, rank, 2, multiple_of=128).out_features for rank in (0, 1)] == [384, 256]
    _, whole = whole_numbers(k=5 * 128)
    assert [row_shard(whole, rank, 2, multiple_of=256).in_features for rank in (0, 1)] == [512, 128]


def test_parts_are_views() -> None:
    _, whole = whole_numbers()
    for part in (column_shard(whole, 1, 2), row_shard(whole, 1, 2)):
        assert np.shares_memory(part.b_packed, whole.b_packed)
        assert np.shares_memory(part.scales, whole.scales)


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("200 columns can't be cut into 5 parts: .* there are 4 of these; use 4 or fewer", {"size": 5}),
        ("multiples of 128, and there are 2 of these", {"size": 3, "multiple_of": 128}),
        ("multiple_of is 32: a packed block holds 64 columns", {"multiple_of": 32}),
        ("multiple_of is 0", {"multiple_of": 0}),
        ("rank is 2: of 2 ranks it must be one from 0 to 1", {"rank": 2}),
        ("rank is -1", {"rank": -1}),
        ("size is 0", {"size": 0}),
        (r"fused is \(64, 64\): it must be widths that sum up to n, 200", {"fused": (64, 64)}),
        (r"fused is \(200, 0\)", {"fused": (200, 0)}),
        (r"fused is \(\)", {"fused": ()}),
        ("a cut at 100 of 200 columns would mean packing anew", {"fused": (100, 100), "size": 1}),
    ],
)
def test_columns_that_cannot_be_cut_so(message: str, changed: dict[str, Any]) -> None:
    _, whole = whole_numbers()
    with pytest.raises(ValueError, match=message):
        column_shard(whole, **{"rank": 0, "size": 2, **changed})


@pytest.mark.parametrize(
    ("message", "options", "changed"),
    [
        ("640 rows can't be cut into 6 parts: a packed block holds 128 rows", {}, {"size": 6}),
        ("a group 256, so parts are multiples of 256, and there are 3", {"group_size": 256}, {"size": 4}),
        ("multiple_of is 128: .* a group 256", {"group_size": 256}, {"multiple_of": 128}),
        ("activation is 'relu', which can't be split along k", {"activation": "relu"}, {}),
        ("activation is 'relu'", {"activation": "relu"}, {"size": 1}),
    ],
)
def test_rows_that_cannot_be_cut_so(message: str, options: Any, changed: dict[str, Any]) -> None:
    _, whole = whole_numbers(**options)
    with pytest.raises(ValueError, match=message):
        row_shard(whole, **{"rank": 0, "size": 2, **changed})


@pytest.mark.parametrize(
    "use",
    [
        lambda weight: ColumnParallel(weight, ALONE),
        lambda weight: RowParallel(weight, ALONE),
        lambda weight: column_shard(weight, 0, 2),
        lambda weight: row_shard(weight, 0, 2),
    ],
)
def test_weight_that_is_no_linear_yet(use: Any) -> None:
    weight = quantize(np.eye(128, dtype=np.float16))
    with pytest.raises(
        TypeError, match=r"linear is a cupy_w4a16.QuantizedWeight: pass a .*Linear\(\*weight\)"
    ):
        use(weight)


def test_rank_that_is_no_integer() -> None:
    _, whole = whole_numbers()
    for rank, size in ((0.0, 2), (True, 2), (0, "2")):
        with pytest.raises(TypeError, match=r"rank is|size is"):
            row_shard(whole, rank, size)


# ------------------------------------------------------------------------------------ layers


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_together_keep_the_bounds_of_one(size: int) -> None:
    on_ranks(size, check_ranks)


@pytest.mark.parametrize("group_size", [32, 256, -1])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sum_of_rows_is_rounded_once(size: int, group_size: int) -> None:
    a, whole = whole_numbers(group_size=group_size, zeros=True)
    parts = [row_shard(whole, rank, size) for rank in range(size)]
    starts = [0, *itertools.accumulate(part.in_features for part in parts)]

    def work(comm: Any) -> Any:
        return RowParallel(whole, comm)(a[:, starts[comm.rank] : starts[comm.rank + 1]])

    for c in on_ranks(size, work):
        np.testing.assert_array_equal(c, whole(a))
    if size > 1:  # rounded each by itself, the parts would not give this
        pieces = np.split(a, starts[1:-1], axis=1)
        rounded = sum(part(piece).astype(np.float16) for part, piece in zip(parts, pieces, strict=True))
        assert (rounded != whole(a)).any()


def test_gathered_columns_keep_leading_axes() -> None:
    a, whole = whole_numbers()
    for each in (a[0], a[None, :, None], a[:0]):
        found = on_ranks(3, lambda comm, each=each: ColumnParallel(whole, comm, gather=True)(each))
        for c in found:
            np.testing.assert_array_equal(c, whole(each))
            assert c.shape == (*each.shape[:-1], whole.out_features)


def test_a_single_rank_is_the_linear_itself() -> None:
    a, whole = whole_numbers()
    assert RowParallel(whole, ALONE).linear is whole
    for layer in (RowParallel(whole, ALONE), ColumnParallel(whole, ALONE, gather=True)):
        out = layer(a)
        np.testing.assert_array_equal(out, whole(a))
        assert out.dtype == whole.dtype


class Silent:
    """One of two ranks that must not send anything."""

    rank, size, device = 0, 2, None

    def all_sum(self, x: Any) -> Any:
        raise AssertionError("something was sent")


@pytest.mark.parametrize(
    ("error", "message", "arrays"),
    [
        (TypeError, "out is float32: it must be float16", {"out": np.empty((3, 200), np.float32)}),
        (ValueError, r"out is of shape \(200,\)", {"out": np.empty(200, np.float16)}),
        (TypeError, "out is a list: it must be a numpy array", {"out": []}),
        (TypeError, "total is float16: it must be float32", {"total": np.empty((3, 200), np.float16)}),
        (ValueError, "total is of shape", {"total": np.empty((2, 200), np.float32)}),
        (ValueError, "total is not C-contiguous", {"total": np.empty((200, 3), np.float32).T}),
    ],
)
def test_rows_send_nothing_before_all_is_checked(error: Any, message: str, arrays: dict[str, Any]) -> None:
    a, whole = whole_numbers()
    layer = RowParallel(whole, Silent())  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        layer(a[:, : layer.linear.in_features], **arrays)
    with pytest.raises(ValueError, match="its last axis must be in_features, 384"):
        layer(a)


def test_gathering_has_no_out_and_no_fused_parts() -> None:
    a, whole = whole_numbers()
    with pytest.raises(ValueError, match="gather and fused are both given"):
        ColumnParallel(whole, ALONE, fused=(128, 72), gather=True)
    with pytest.raises(ValueError, match="out is given"):
        ColumnParallel(whole, ALONE, gather=True)(a, out=np.empty((3, 200), np.float16))


def test_layers_show_their_rank() -> None:
    _, whole = whole_numbers()
    assert repr(RowParallel(whole, Silent())) == (  # type: ignore[arg-type]
        "RowParallel(rank 0 of 2, Linear(384 -> 200, group_size=128, bias, float32, numpy))"
    )


# ------------------------------------------------------------------------------------ ranks


@pytest.mark.parametrize(
    ("message", "environment"),
    [
        ("rank is not given and RANK is not set: pass rank=, or start the ranks with a launcher", {}),
        ("RANK is 'one'", {"RANK": "one", "WORLD_SIZE": "2"}),
        ("WORLD_SIZE is not set", {"RANK": "0"}),
        ("rank is 2: of 2 ranks", {"RANK": "2", "WORLD_SIZE": "2"}),
    ],
)
def test_environment_that_names_no_rank(
    message: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        connect()


def test_missing_nccl_is_named_before_a_gpu_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy.cuda.nccl")
    monkeypatch.setattr("cupy.cuda.nccl.available", False)
    monkeypatch.setattr(ranks.cupy.cuda, "Device", None)
    with pytest.raises(W4A16Error, match="several ranks need NCCL: pip install nvidia-nccl-cu12"):
        connect(0, 2)


class Distributed:
    """Stands in for `cupyx.distributed`, without NCCL; `fault` is what connecting raises."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault, self.asked, self.listening = fault, (), True

    def init_process_group(self, size: int, rank: int) -> Any:
        self.asked = size, rank
        if self.fault:
            raise self.fault
        return self

    def stop(self) -> None:
        self.listening = False


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """A CUDA of four GPUs."""
    cuda = mock.Mock()
    cuda.runtime.getDeviceCount.return_value = 4
    monkeypatch.setattr(ranks, "cupy", mock.Mock(cuda=cuda))
    return cuda


@pytest.mark.parametrize(
    ("place", "environment", "rank", "device"),
    [
        ({}, {"RANK": "5", "WORLD_SIZE": "8"}, 5, 1),
        ({}, {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, 5, 2),
        ({"device": 3}, {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, 5, 3),
        # Threads of one process share its environment.
        ({"rank": 1, "size": 8}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, 1, 1),
    ],
)
def test_each_rank_has_a_gpu(
    place: dict[str, int],
    environment: dict[str, str],
    rank: int,
    device: int,
    driver: mock.Mock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed = Distributed()
    monkeypatch.setattr(ranks, "_distributed", lambda: distributed)
    comm = connect(**place)
    assert (comm.rank, comm.size, comm.device, comm.backend) == (rank, 8, device, distributed)
    assert distributed.asked == (8, rank)
    driver.Device.assert_called_once_with(device)
    driver.Device.return_value.use.assert_called_once_with()
    assert not distributed.listening  # else its process would keep this one from ending


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        (4, ValueError, "device is 4: this machine's GPUs go from 0 to 3"),
        (-1, ValueError, "device is -1"),
        ("1", TypeError, "device is '1': it must be an integer"),
    ],
)
def test_gpu_that_is_not_there(device: Any, error: Any, message: str, driver: mock.Mock) -> None:
    with pytest.raises(error, match=message):
        connect(0, 1, device)
    driver.Device.assert_not_called()


def test_rank_without_a_gpu_is_told_what_numpy_takes(driver: mock.Mock) -> None:
    driver.runtime.CUDARuntimeError = ArithmeticError
    driver.runtime.getDeviceCount.side_effect = ArithmeticError("no CUDA-capable device")
    with pytest.raises(W4A16Error, match=r"rank 0 finds no GPU \(no CUDA-capable device\).*Communicator\("):
        connect(0, 1)


def test_failure_to_connect_says_why(driver: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_distributed", lambda: Distributed(RuntimeError("TCPStore is not available")))
    with pytest.raises(
        W4A16Error, match=r"rank 1 of 2, on GPU 1, could not .*TCPStore is not available"
    ) as found:
        connect(1, 2)
    assert found.value.__context__ is None  # it would keep CuPy's half-made backend, and its process, alive


def test_nothing_is_not_sent() -> None:
    assert Communicator(0, 2, None, backend=None).all_sum(np.empty((0, 8), np.float32)).shape == (0, 8)


def test_started_ranks_know_their_place() -> None:
    code = "import os; print(*(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')))"
    assert run_ranks([sys.executable, "-c", code], 2, 30) == "0 2 0\n"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("rank 1 of 2 ended with status 3(.|\n)*lost", "print('lost'); sys.exit(3)"),
        ("out of time, with rank 0, 1 of 2 still running", "time.sleep(100)"),
    ],
)
def test_no_rank_outlives_a_fault(message: str, code: str) -> None:
    program = f"import os, sys, time\nif os.environ['RANK'] == '0': time.sleep(100)\n{code}"
    started = time.monotonic()
    with pytest.raises(BenchError, match=message):
        run_ranks([sys.executable, "-c", program], 2, 2)
    assert time.monotonic() - started < 50


# ------------------------------------------------------------------------------------ the benchmark


@pytest.mark.parametrize("size", [1, 2, 3])
def test_block_on_ranks_is_the_block_of_one(size: int) -> None:
    hidden, kv, inner = 768, 384, 1152
    shapes = ((hidden, hidden + 2 * kv), (hidden, hidden), (hidden, 2 * inner), (inner, hidden))
    problems = [make_problem(5, n, k, seed=i) for i, (k, n) in enumerate(shapes)]
    whole = [Linear(*problem[1:]) for problem in problems]

    def work(comm: Any) -> Any:
        block = bench.Block(whole, comm, 128)
        return block(problems[0].a, block.buffers(np, 5)).astype(np.float32)

    (expected,) = on_ranks(1, work)
    for c in on_ranks(size, work):
        error = np.sqrt(np.mean((c - expected) ** 2) / np.mean(expected**2))
        assert error <= bench.ERROR_EPS * np.finfo(np.float16).eps


def test_row_survives_its_way_to_the_table() -> None:
    measured = ((1, 180.0, None), (2, 100.0, 21.5))
    rows = [bench.Row("H100", gpus, 16, us, us + 9, sums, 3e-4) for gpus, us, sums in measured]
    printed = "NCCL version 2\n" + "\n".join(json.dumps(asdict(row)) for row in rows)
    assert bench.parse_rows(printed) == rows
    lines = [line.split() for line in bench.format_rows(rows).splitlines()]
    assert lines[1] == ["1", "16", "180.0", "189.0", "1.00", "-", "3.0e-04"]
    assert lines[2] == ["2", "16", "100.0", "109.0", "1.80", "21.5", "3.0e-04"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--gpus", "0,2", "--gpus is '0,2'"),
        ("--m", "one", "'one'"),
        ("--group-size", "100", "--group-size: group_size is 100"),
        ("--rounds", "0", "--rounds is 0: it must be above 0"),
    ],
)
def test_mistaken_arguments_are_named_before_a_rank_starts(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(bench, "run_ranks", mock.Mock(side_effect=AssertionError("a rank was started")))
    assert bench.main([option, value]) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------ Dask


@pytest.mark.parametrize("shape", [(7, 640), (2, 5, 640), (640,)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dask_blocks_are_the_whole(shape: tuple[int, ...], dtype: str) -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    _, linear = whole_numbers(dtype=dtype)
    a = np.random.default_rng(2).integers(-30, 31, shape).astype(np.float16)
    x = da.from_array(a, chunks=(*(3 for _ in shape[:-1]), 640))
    mapped = map_rows(x, linear)
    plain = x.map_blocks(linear, dtype=linear.dtype, chunks=(*x.chunks[:-1], (linear.out_features,)))
    for c in (mapped, plain):
        assert (c.shape, c.dtype) == ((*shape[:-1], 200), linear.dtype)
        np.testing.assert_array_equal(c.compute(scheduler="threads"), linear(a))
    assert mapped._meta.dtype == linear.dtype


def test_dask_task_pickles() -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    cloudpickle = pytest.importorskip("cloudpickle")
    a, linear = whole_numbers()
    c = map_rows(da.from_array(a, chunks=(2, 640)), linear)
    again = pickle.loads(cloudpickle.dumps(c))
    np.testing.assert_array_equal(again.compute(scheduler="synchronous"), linear(a))


def test_dask_does_not_hash_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    a, linear = whole_numbers()

    def refuse(*_: Any) -> Any:
        raise AssertionError("the weights were pickled")

    monkeypatch.setattr(Linear, "__reduce__", refuse)
    x = da.from_array(a, chunks=(2, 640))
    first, second = map_rows(x, linear), map_rows(x, linear)
    assert first.name != second.name
    np.testing.assert_array_equal(first.compute(scheduler="synchronous"), linear(a))


def test_dask_array_that_does_not_fit() -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    a, linear = whole_numbers()
    with pytest.raises(TypeError, match=r"x is a numpy.ndarray: it must be a Dask array"):
        map_rows(a, linear)
    with pytest.raises(TypeError, match="linear is a builtin_function_or_method: pass a"):
        map_rows(da.from_array(a), len)
    with pytest.raises(ValueError, match="its last axis must be in_features, 640"):
        map_rows(da.from_array(a[:, :512]), linear)
    with pytest.raises(ValueError, match=r"x has 2 chunks along its last axis, k"):
        map_rows(da.from_array(a, chunks=(3, 320)), linear)


# ------------------------------------------------------------------------------------ on GPUs


@pytest.fixture
def gpus() -> int:
    """How many GPUs NCCL can use here: two at least."""
    count = int(cupy.cuda.runtime.getDeviceCount())
    if count < 2:
        pytest.skip(f"needs two GPUs: there is {count}")
    try:
        ranks._distributed()
    except W4A16Error as error:
        pytest.skip(f"needs NCCL: {error}")
    return count


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_on_one_gpu_keep_the_bounds(size: int) -> None:
    compile_for(shard_cases(size))
    on_ranks(size, check_ranks, device=cupy.cuda.runtime.getDevice())


@pytest.mark.gpu
def test_a_rank_keeps_its_part_alone() -> None:
    _, whole = whole_numbers()
    device = cupy.cuda.runtime.getDevice()

    comm = Communicator(rank=0, size=2, device=device, backend=None)
    for weight in (whole, whole.to_device(device)):
        for layer in (ColumnParallel(weight, comm), RowParallel(weight, comm)):
            part = layer.linear
            assert part.device == device
            for x in (part.b_packed, part.scales, part.bias):
                assert x.flags.c_contiguous
                assert x.base is None
                if weight.device is not None:
                    assert x.data.mem is not weight.b_packed.data.mem


@pytest.mark.gpu
def test_processes_over_nccl_keep_the_bounds(gpus: int) -> None:
    for size in {2, gpus}:
        compile_for(shard_cases(size))
        assert "every rank agrees" in run_ranks([sys.executable, str(PROGRAM)], size, LIMIT_S)


@pytest.mark.gpu
def test_threads_over_nccl_keep_the_bounds(gpus: int) -> None:
    compile_for(shard_cases(2))
    # One process, as run_ranks sees it; its threads are the ranks.
    assert "every rank agrees" in run_ranks([sys.executable, str(PROGRAM), "2"], 1, LIMIT_S)


@pytest.mark.gpu
def test_benchmark_of_the_block_runs(gpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--gpus", "1,2", "--m", "1,16", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["1", "1"], ["1", "16"], ["2", "1"], ["2", "16"]]
