"""Layers cut over ranks are the whole layer, on NumPy with a communicator of threads, on GPUs over NCCL."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.fake_ranks import on_ranks
from helpers.parallel_ranks import LIMIT_S, check_ranks, shard_kernels
from helpers.whole_numbers import whole_numbers

from cupy_w4a16 import W4A16Error, compile_kernels, quantize
from cupy_w4a16._kernels import unit_for
from cupy_w4a16.bench import parallel as bench
from cupy_w4a16.bench.ranks import run_ranks
from cupy_w4a16.parallel import ColumnParallel, Communicator, RowParallel, column_shard, ranks, row_shard

PROGRAM = Path(__file__).parent / "helpers/parallel_ranks.py"
ALONE = Communicator(rank=0, size=1, device=None, backend=None)


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
    ("fused", "message"),
    [
        (192, "fused is 192: pass widths that sum up to n, 200"),
        ((128.0, 72), r"fused\[0\] is 128.0: it must be an integer"),
    ],
)
def test_widths_are_integers(fused: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        column_shard(whole_numbers()[1], 0, 2, fused=fused)


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


@pytest.fixture(scope="module")
def compiled() -> None:
    """What ranks run below is in the cache: else each would compile by itself, one kernel after the other."""
    sizes = {1, 2, 3, int(cupy.cuda.runtime.getDeviceCount())}
    units = {unit_for(kernel) for size in sizes for kernel in shard_kernels(size)}
    compile_kernels(units, progress=False, workers=len(os.sched_getaffinity(0)))


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_on_one_gpu_keep_the_bounds(size: int) -> None:
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
@pytest.mark.usefixtures("compiled")
def test_processes_over_nccl_keep_the_bounds(gpus: int) -> None:
    for size in {2, gpus}:
        assert "every rank agrees" in run_ranks([sys.executable, str(PROGRAM)], size, LIMIT_S)


@pytest.mark.gpu
def test_benchmark_of_the_block_runs(
    gpus: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "LIMIT_S", LIMIT_S)
    assert bench.main(["--gpus", "1,2", "--m", "1", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:3]] == ["GPU 0", "GPU 1"]
    assert [line.split()[:2] for line in lines[4:]] == [["1", "1"], ["2", "1"]]
