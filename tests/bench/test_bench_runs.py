"""On a GPU: all of it runs, and sees what is wrong."""

from __future__ import annotations

import csv
import math
import random
import re
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.bench import LARGE, SMALL

from cupy_w4a16 import _config_table
from cupy_w4a16.__main__ import main
from cupy_w4a16._config import GemmProblem
from cupy_w4a16._tuned import load_tuned, tuned_path
from cupy_w4a16.bench import arguments, device, machine, quantizing, shapes, sweep, variants
from cupy_w4a16.bench.variants import Variant


@pytest.mark.gpu
@pytest.mark.parametrize("zeros", ["none", "integer", "float"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bench_runs(zeros: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.csv"
    quick = f"--m 1,130 --rounds 2 --work-ms 0.2 --dtype {dtype} --zeros {zeros} --peers cublas cublas-nk"
    words = f"bench --shapes 256x512 {quick} --csv {path}"
    assert main(words.split()) == 0, capsys.readouterr()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["m"] for row in rows] == ["1", "130"]
    assert all(float(row["us"]) > 0 and float(row["x_cublas"]) > 0 and not row["fault"] for row in rows)
    printed = capsys.readouterr().out
    assert "a cool GPU: a rest of 3 x its time" in printed
    assert "Over the shapes" in printed


@pytest.mark.gpu
def test_kinds_of_weights_are_measured_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.csv"
    kinds = "--group-size 128,32 --zeros none,integer"
    words = f"bench --shapes 256x512 --m 1 {kinds} --rounds 2 --work-ms 0.2 --peers cublas --csv {path}"
    assert main(words.split()) == 0, capsys.readouterr()
    with path.open(newline="") as file:
        found = [(row["group_size"], row["zeros"], row["fault"]) for row in csv.DictReader(file)]
    assert found == [("128", "", ""), ("128", "uint8", ""), ("32", "", ""), ("32", "uint8", "")]
    printed = capsys.readouterr().out
    for kind in ("groups of 128, float16", "groups of 32, float16, uint8 zeros"):
        assert f"N=256 K=512, {kind}; cold read" in printed
        assert f"Over the shapes, {kind}\n" in printed


@pytest.mark.gpu
def test_bench_sees_a_wrong_result() -> None:
    def prepare(point: variants.Point) -> list[Any]:
        def call() -> None:
            point.out[...] = point.weights.expected(point.problem.m)
            point.out[random.Random(0).randrange(point.problem.m), :64] *= 1.01

        return [call] * len(point.weights.sets)

    def unwritten(point: variants.Point) -> list[Any]:
        return [lambda: None] * len(point.weights.sets)

    bad = [Variant("one per cent off", prepare), Variant("never written", unwritten)]
    rows = sweep.sweep([GemmProblem(32, 256, 512)], bad, procedure=sweep.Procedure(rounds=1, work_us=100))
    assert [row.fault.partition(":")[0] for row in rows] == ["wrong", "wrong"]
    assert all(math.isnan(row.us) for row in rows)


@pytest.mark.gpu
def test_tune_keeps_a_valid_winner_for_each_kind_of_launch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_config_table, "configs", lambda problem: [LARGE, SMALL])
    monkeypatch.delenv("CUPY_W4A16_PDL", raising=False)
    assert main(["tune", "--shapes", "256x512", "--m", "16", "--rounds", "2", "--work-ms", "0.2"]) == 0
    tuned = load_tuned(machine.device_name(), machine.num_sms())
    assert set(tuned) == {(GemmProblem(16, 256, 512), pdl) for pdl in (False, True)}
    assert machine.facts()["tuned"].startswith("1 products, ")
    printed = capsys.readouterr().out
    assert f"stored in {tuned_path()}" in printed
    assert [name for name in printed.split() if name.startswith("linear")] == ["linear", "linear-pdl"]


@pytest.mark.gpu
def test_host_and_chain_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = shapes.Model("tiny", 2, (shapes.Shape(384, 256), shapes.Shape(256, 256), shapes.Shape(256, 256)))
    monkeypatch.setattr(arguments, "MODELS", (small,))
    assert main(["bench", "--chain", "--m", "3", "--rounds", "2"]) == 0
    assert main(["bench", "--chain", "--shapes", "384x256", "--m", "3", "--rounds", "2"]) == 0
    assert main(["bench", "--host", "--shapes", "256x512", "--m", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(
        word in printed for word in ("tiny: 2 blocks", "1 block of 384x256", "W4A16", "cupy.matmul(out=)")
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_quantize_is_timed_by_every_method(
    dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = quantizing.Layer("q, o", shapes.Shape(192, 256), 2)
    monkeypatch.setattr(quantizing, "MODEL", quantizing.Matrices("tiny", 2, (layer,)))
    assert main(["bench", "--quantize", "--rounds", "1", "--dtype", dtype]) == 0, capsys.readouterr()
    rows = capsys.readouterr().out.partition("a layer\n")[2].splitlines()[1:]
    assert [re.split(r"  +", row)[0] for row in rows] == [
        "rtn", "mse", "rtn, zeros", "mse, zeros", "hqq, zeros", "awq, 512 rows",
    ]  # fmt: skip
    for row in rows:
        *_, temporary_mb, error, ms = re.split(r"  +", row)
        assert 0 <= float(temporary_mb) < 200  # shown in whole megabytes
        assert 5 < float(error) < 20
        assert float(ms) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("reader", device.READERS, ids=str)
@pytest.mark.parametrize("sizes", [(1 << 22, 1 << 18), (4096 * 37 + 16, 16), (16, 0)])
def test_floor_reads_every_byte(reader: device.Reader, sizes: tuple[int, int]) -> None:
    # What was read is written where its words' sum, an exclusive or, is this one: seen at fifty places.
    word = 0x5EED5EED
    arrays = [cupy.zeros(size // 4, np.uint32) for size in sizes]
    sink = cupy.zeros(1, np.uint32)
    for x in arrays:
        for i in {*range(0, x.size, max(1, x.size // 50)), *range(max(0, x.size - 4), x.size)}:
            x[i] = word
            reader(*arrays, sink)
            assert int(sink[0]) == word, f"word {i} of {x.size}"
            x[i] = sink[0] = 0
