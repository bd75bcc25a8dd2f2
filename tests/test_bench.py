"""The benchmark and the tuning file: arithmetic, arguments, formats, files; on a GPU, that all of it runs."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest

from cupy_w4a16 import _compiler, _tuned, clear_cache, dequantize
from cupy_w4a16.__main__ import main
from cupy_w4a16._config import NAMED_CONFIGS, GemmConfig, GemmProblem
from cupy_w4a16._tuned import Winner, load_tuned, store_tuned, tuned_config, tuned_path
from cupy_w4a16.bench import (
    BenchError,
    HangError,
    device,
    machine,
    quantizing,
    report,
    shapes,
    sweep,
    timing,
    variants,
)
from cupy_w4a16.bench import tune as tune_module
from cupy_w4a16.bench.floor import Floor
from cupy_w4a16.bench.report import Row
from cupy_w4a16.bench.timing import Timing
from cupy_w4a16.bench.variants import Variant
from cupy_w4a16.testing import make_problem

LARGE, SMALL = NAMED_CONFIGS.values()
PROBLEM = GemmProblem(16, 4096, 4096)
H100 = "NVIDIA H100 80GB HBM3", 132
L2_BYTES = 50 << 20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(folder))
    return folder


def timing_of(us: float) -> Timing:
    return Timing(us, us, us, 100, 7, 1980, 650.0)


def row_of(us: float, config: GemmConfig = LARGE, problem: GemmProblem = PROBLEM, **peers: float) -> Row:
    peers_us = {name.replace("_", "-"): value for name, value in (peers or {"cublas": 16.0}).items()}
    return Row.measured(problem, "gemm", config, timing_of(us), Floor(4.0, 700.0), peers_us, 8_650_752)


# --- What is measured ---


@pytest.mark.parametrize("shape", shapes.MODEL_SHAPES)
def test_weights_come_cold(shape: shapes.Shape) -> None:
    size = shapes.weight_bytes(*shape, 128)
    sets = shapes.rotation(size, L2_BYTES)
    assert sets * size > 4 * L2_BYTES
    assert sets == 2 or (sets - 1) * size <= 4 * L2_BYTES  # and no more memory than that takes


def test_graphs_hold_every_weight_set_and_enough_work() -> None:
    assert shapes.calls_for(call_us=1000, least=25, work_us=5000) == 25
    assert shapes.calls_for(call_us=10, least=25, work_us=5000) == 500


def test_weight_bytes_are_those_of_the_arrays() -> None:
    for n, k, group in ((4096, 4096, 128), (70, 200, 64), (64, 128, -1)):
        problem = make_problem(1, n, k, group)
        assert shapes.weight_bytes(n, k, group) == problem.b_packed.nbytes + problem.scales.nbytes


def test_models_feed_each_layer_from_the_one_before() -> None:
    for model in shapes.MODELS:
        for before, layer in zip((model.layers[-1], *model.layers[:-1]), model.layers, strict=True):
            assert before.n >= layer.k


def test_layers_to_quantize_are_all_of_the_model() -> None:
    # One by one as in a checkpoint, or joined as they are multiplied: as many weights.
    joined = shapes.MODELS[0]
    assert quantizing.MODEL.name == joined.name
    assert quantizing.MODEL.weights == joined.blocks * sum(shape.n * shape.k for shape in joined.layers)


def test_time_to_quantize_counts_every_layer_of_every_block() -> None:
    one, two = (
        quantizing.Layer(name, shapes.Shape(64, 128), count) for name, count in (("q", 1), ("k, v", 2))
    )
    model = quantizing.Matrices("tiny", 10, (one, two))
    costs = [quantizing.Cost(one, 1.5, 0.5, 3_000_000, 0.11), quantizing.Cost(two, 0.27, 0.25, 10**6, 0.1)]
    line = quantizing.format_cost(model, "rtn, zeros", costs)
    # 10 * (0.5 + 2 * 0.25) s, and the 1 and 0.02 s by which first calls took longer.
    assert line.removeprefix("rtn, zeros").split() == ["10.0", "1.0", "3", "11.0", "500.0", "250.0"]
    assert len(quantizing.format_heading(model).splitlines()[-1]) == len(line)


@pytest.mark.parametrize("text", ["4096", "4096x", "0x64", "64x64x64", "64x-1", ""])
def test_mistaken_shapes_are_named(text: str) -> None:
    with pytest.raises(BenchError, match="shapes are NxK"):
        shapes.parse_shapes(text)


# --- The floor, the table, the file ---


def test_floor_is_the_larger_of_reading_and_arithmetic() -> None:
    floor = Floor(read_us=4.0, tflops=500.0)
    assert floor.us(1, 4096, 4096) == 4.0
    assert floor.us(8192, 4096, 4096) == pytest.approx(2 * 8192 * 4096 * 4096 / 500e12 * 1e6)


def test_row_arithmetic() -> None:
    row = row_of(8.0, cublas=16.0, cublas_nk=14.0, humming=10.0)
    assert row.x_cublas == 14.0 / 8.0  # the faster layout counts
    assert (row.x_floor, row.humming_us) == (2.0, 10.0)
    assert row.tflops == pytest.approx(2 * 16 * 4096 * 4096 / 8e-6 / 1e12)
    assert row.gb_per_s == pytest.approx((8_650_752 + 2 * 16 * 4096 * 2) / 8e-6 / 1e9)


def test_lines_align_with_their_header() -> None:
    ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", report.header())][:-1]
    for row in (row_of(8.0), row_of(11483.9, cublas=11580.9, humming=12056.4), row_of(4.95, cublas=16.5)):
        line = report.format_row(row)
        assert [match.end() for match in re.finditer(r"\S+", line)][: len(ends)] == ends


def test_line_of_a_refused_variant_says_why() -> None:
    line = report.format_row(Row.failed(PROBLEM, LARGE.name, LARGE, "refused: too large"))
    assert line.split() == ["16", LARGE.name, "refused:", "too", "large"]


def test_summary_takes_the_best_variant_of_each_shape() -> None:
    other = replace(PROBLEM, n=8192)
    rows = [
        row_of(8.0, cublas=16.0),
        row_of(9.0, SMALL, cublas=16.0),
        row_of(4.0, problem=other, cublas=32.0),
        Row.failed(other, SMALL.name, SMALL, "wrong"),
    ]
    m, count, mean, least, floor, most = report.format_summary(rows).splitlines()[-1].split()
    assert (m, count, mean, least) == ("16", "2", "4.000", "2.000")  # sqrt(2 * 8)
    assert (float(floor), float(most)) == (pytest.approx(math.sqrt(2 * 1), abs=1e-3), 2.0)


def test_csv_keeps_what_was_measured_when_the_run_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with report.csv_writer(str(path)) as write:
        write(row_of(8.0))
        write(Row.failed(PROBLEM, SMALL.name, SMALL, "refused: because"))
        assert len(path.read_text().splitlines()) == 3  # flushed, before the file is closed
    with path.open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["m"], good["n"], good["us"], good["tile_n"], good["fault"]) == ("16", "4096", "8", "128", "")
    assert (bad["us"], bad["tile_n"], bad["fault"]) == ("", "64", "refused: because")
    assert GemmConfig(int(good["tile_n"]), int(good["tile_m"]), schedule=good["schedule"]) == LARGE


def test_unwritable_csv_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--csv"), report.csv_writer(str(tmp_path / "none" / "rows.csv")):
        pass


def test_plot_has_a_panel_a_shape(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from cupy_w4a16.bench.plot import save_plot

    points = [replace(PROBLEM, m=m, n=n) for n in (4096, 8192) for m in (1, 16, 256)]
    rows = [row_of(8.0 + problem.m, problem=problem) for problem in points]
    save_plot(rows, str(tmp_path / "a.svg"), "title")
    text = (tmp_path / "a.svg").read_text()
    assert text.count('id="axes_') == 2
    with pytest.raises(BenchError, match="nothing was measured"):
        save_plot([Row.failed(PROBLEM, "gemm", LARGE, "wrong")], str(tmp_path / "b.svg"), "title")


# --- The command line ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bench --shapes 4096", "NxK"),
        ("bench --m one", "--m"),
        ("bench --group-size 48", "--group-size"),
        ("bench --rounds 0", "--rounds"),
        ("bench --work-ms -1", "--work-ms"),
        ("bench --config nonesuch", "nonesuch"),
        ("bench --config tile_q=3", "tile_q"),
        ("bench --config tile_n=7", "tile_n is 7"),
        ("tune --shapes 64", "NxK"),
    ],
)
def test_mistaken_arguments_end_with_a_sentence(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error


@pytest.mark.parametrize(
    "arguments", ["bench", "bench --host", "bench --chain", "bench --all-configs", "tune --shapes 64x128"]
)
def test_without_a_gpu_there_is_a_sentence(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_device() -> int:
        raise cupy.cuda.runtime.CUDARuntimeError(100)  # cudaErrorNoDevice

    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", no_device)
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert re.match(r"error: (bench|tune) needs a Hopper GPU", error)
    assert error.count("\n") == 1


def test_config_by_fields_is_the_config_of_those_fields() -> None:
    assert variants.find_config("tile_n=256,tile_m=64,stages=None", [PROBLEM]) == GemmConfig(256, 64)
    assert variants.find_config("tile_n=64,schedule=pingpong", [PROBLEM]) == SMALL
    assert variants.find_config(SMALL.name, [PROBLEM]) == SMALL


def test_listed_configs_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list-configs", "--shapes", "256x512", "--m", "16"]) == 0
    names = capsys.readouterr().out.split()
    assert len(set(names)) == len(names) > 0
    known = variants.known_configs(GemmProblem(16, 256, 512))
    assert [config.name for config in known] == names
    assert variants.find_config(names[-1], [GemmProblem(16, 256, 512)]) == known[-1]


# --- Timing, with clocks and graphs that are not there ---


class FakeEvent:
    """An event of a GPU whose time is `now`."""

    now = 0.0

    def __init__(self, **_: Any) -> None:
        self.at = math.nan
        self.done = True

    def record(self, stream: Any) -> None:
        self.at = FakeEvent.now

    def synchronize(self) -> None:
        pass


class FakeGraph:
    """A graph that takes `ms`, and notes that it ran."""

    def __init__(self, name: str, ms: float, log: list[str]) -> None:
        self.name, self.ms, self.log = name, ms, log

    def launch(self, stream: Any) -> None:
        FakeEvent.now += self.ms
        self.log.append(self.name)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(cupy.cuda, "Event", FakeEvent)
    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", lambda start, end: end.at - start.at)
    monkeypatch.setattr(machine, "sample", lambda: machine.Sample(1500, 700.0))
    return []


def test_every_round_runs_every_graph_once_in_changing_order(fake_gpu: list[str]) -> None:
    replays = [
        timing.Replay(FakeGraph(name, ms, fake_gpu), calls=10)
        for name, ms in zip("abc", (1, 2, 4), strict=True)
    ]
    found = timing.interleaved(replays, 20, None, seed=1)
    rounds = ["".join(fake_gpu[i : i + 3]) for i in range(0, len(fake_gpu), 3)]
    assert len(rounds) == 21  # one to warm up
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    assert len(set(rounds)) == 6  # 20 draws miss one of six orders with a chance of 6 (5/6)^21 = 13 %: seeded
    assert [t.us for t in found] == pytest.approx([100, 200, 400])
    assert {(t.rounds, t.calls, t.sm_mhz) for t in found} == {(20, 10, 1500)}


def test_bursts_last_and_skip_their_start(fake_gpu: list[str]) -> None:
    replay = timing.Replay(FakeGraph("a", 5.0, fake_gpu), calls=100)
    (found,) = timing.bursts([replay], 3, None, seed=0)
    assert found.us == pytest.approx(50.0)
    assert len(fake_gpu) == 2 + 3 * timing.BURST_MS / 5.0


class FakeStream:
    def __init__(self) -> None:
        self.log: list[str] = []

    def __enter__(self) -> None:
        self.log.append("enter")

    def __exit__(self, *_: object) -> None:
        self.log.append("exit")

    def begin_capture(self) -> None:
        self.log.append("begin")

    def end_capture(self) -> str:
        self.log.append("end")
        return "graph"


def test_capture_takes_the_weight_sets_in_turn() -> None:
    seen: list[int] = []
    replay = timing.capture([lambda i=i: seen.append(i) for i in range(3)], 7, FakeStream())  # type: ignore[misc]
    assert seen == [0, 1, 2, 0, 1, 2, 0]
    assert replay == timing.Replay("graph", 7)


def test_failed_capture_is_ended() -> None:
    stream = FakeStream()
    with pytest.raises(ZeroDivisionError):
        timing.capture([lambda: 1 / 0], 1, stream)
    assert stream.log == ["enter", "begin", "end", "exit"]


def test_hanging_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(FakeEvent):
        def record(self, stream: Any) -> None:
            self.done = False

    monkeypatch.setattr(cupy.cuda, "Event", Never)
    monkeypatch.setattr(timing, "HANG_S", 0.01)
    with pytest.raises(HangError, match="256x128 has not ended"):
        timing.wait(None, "256x128")


# --- What is right ---


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("zeros", [None, "integer"])
def test_error_limit_passes_rounding_and_sees_a_lost_row(dtype: str, zeros: str | None) -> None:
    k = 2048
    problem = make_problem(64, 64, k, dtype=dtype, zeros=zeros)
    a = problem.a.astype(np.float32)
    exact = a @ dequantize(*problem[1:4], problem.group_size, k=k, dtype=np.float32)
    rounded = (a @ dequantize(*problem[1:4], problem.group_size, k=k).astype(np.float32)).astype(
        problem.a.dtype
    )
    limit = sweep.error_limit(GemmProblem(64, 64, k, 128, dtype, None if zeros is None else "uint8", dtype))

    def error(c: Any) -> float:
        return math.sqrt(float(((c.astype(np.float32) - exact) ** 2).mean() / (exact**2).mean()))

    assert error(rounded) <= limit / 2
    a[:, 77] = 0
    lost = a @ dequantize(*problem[1:4], problem.group_size, k=k, dtype=np.float32)
    assert error(lost) == pytest.approx(k**-0.5, rel=0.5)
    assert limit < (
        28672**-0.5 if dtype == "float16" else k**-0.5
    )  # the longest k of the models; bfloat16: this


def test_kernels_of_the_benchmark_compile() -> None:
    compiled = _compiler.compile_source(device.unit().source, "bench")
    found = {used.kernel: used for used in compiled.resources}
    asked_for = {"bench_fill_words"} | {f"bench_read_{loads}" for loads in device.READ_LOADS}
    for dtype in ("float16", "bfloat16"):
        names = ("fill_normal_{}", "fill_uniform_{}", "dequantize_{}", "dequantize_{}_to_float", "compare_{}")
        asked_for |= {f"bench_{name.format(dtype)}" for name in names}
    assert asked_for | {"bench_compare_float32"} == set(found)
    for loads in device.READ_LOADS:  # four registers a load: all of them are in flight at once
        assert found[f"bench_read_{loads}"].registers >= 4 * loads
        assert found[f"bench_read_{loads}"].spill_store_bytes == 0


# --- Choosing ---


def variant(name: str) -> Variant:
    return Variant(name, lambda point: [])


def test_first_look_keeps_the_best_and_drops_the_hopeless() -> None:
    found = {variant(f"v{i}"): timing_of(10.0 + i / 10) for i in range(40)}
    kept = sweep.select_finalists(found)
    assert [v.name for v in kept] == [f"v{i}" for i in range(sweep.FINALISTS)]
    spread = {
        variant("best"): timing_of(10.0),
        variant("near"): timing_of(10.9),
        variant("far"): timing_of(11.1),
    }
    assert [v.name for v in sweep.select_finalists(spread)] == ["best", "near"]


def test_winner_must_beat_the_present_config_by_more_than_noise() -> None:
    rows = [row_of(10.0, LARGE), row_of(9.9, SMALL)]
    assert tune_module.select_winner(rows, LARGE)[0].config == LARGE
    rows = [row_of(10.0, LARGE), row_of(9.5, SMALL), Row.failed(PROBLEM, "x", GemmConfig(256), "wrong")]
    winner, before = tune_module.select_winner(rows, LARGE)
    assert (winner.config, before.us) == (SMALL, 10.0)
    assert tune_module.select_winner(rows, GemmConfig(256))[0].config == SMALL  # the present one is wrong
    with pytest.raises(BenchError, match="no config could be timed"):
        tune_module.select_winner(rows[2:], LARGE)


# --- The tuning file ---


def winner_of(m: int, config: GemmConfig, us: float = 5.0) -> Winner:
    return Winner(replace(PROBLEM, m=m), config, us)


def test_tuning_file_round_trip(cache: Path) -> None:
    assert load_tuned(*H100) == {}
    odd = GemmConfig(256, 64, stages=3, cluster_m=2)
    assert (
        store_tuned(*H100, [winner_of(16, SMALL), winner_of(64, odd)]) == tuned_path() == cache / "tuned.json"
    )
    assert load_tuned(*H100) == {replace(PROBLEM, m=16): SMALL, replace(PROBLEM, m=64): odd}
    store_tuned(*H100, [winner_of(16, LARGE)])  # a later run wins, and leaves the rest
    assert load_tuned(*H100) == {replace(PROBLEM, m=16): LARGE, replace(PROBLEM, m=64): odd}
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["tuned.json"]


def test_winners_of_one_gpu_are_not_used_on_another() -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    store_tuned("NVIDIA H200", 132, [winner_of(16, LARGE)])
    assert load_tuned(*H100)[PROBLEM] == SMALL
    assert load_tuned("NVIDIA H200", 132)[PROBLEM] == LARGE
    assert load_tuned(H100[0], 114) == {}


def test_tokens_between_use_the_next_larger_winner() -> None:
    store_tuned(*H100, [winner_of(16, SMALL), winner_of(64, LARGE), winner_of(100, SMALL)])

    def found(m: int, **changes: Any) -> GemmConfig | None:
        return tuned_config(replace(PROBLEM, m=m, **changes), *H100)

    assert (found(16), found(9), found(8)) == (SMALL, SMALL, None)
    assert (found(33), found(64), found(65)) == (LARGE, LARGE, SMALL)
    assert (found(101), found(17)) == (None, None)
    assert (
        found(16, n=8192),
        found(16, dtype="bfloat16", out_dtype="bfloat16"),
        found(16, zeros="uint8"),
    ) == (None,) * 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"schema": 1, "devi',
        "[]",
        "null",
        '{"schema": 99, "devices": {}}',
        '{"schema": 1}',
        '{"schema": 1, "devices": []}',
        '{"schema": 1, "devices": {"NVIDIA H100 80GB HBM3, 132 SMs": [3]}}',
        b"\xff\xfe\x00",
    ],
)
def test_damaged_tuning_file_warns_once_and_is_replaced(content: str | bytes, cache: Path) -> None:
    cache.mkdir()
    tuned_path().write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(RuntimeWarning, match="tuning file") as warned:
        found = [load_tuned(*H100) for _ in range(3)]
    assert (found, len(warned)) == ([{}] * 3, 1)
    with pytest.warns(RuntimeWarning, match="tuning file"):
        store_tuned(*H100, [winner_of(16, SMALL)])
    assert load_tuned(*H100) == {PROBLEM: SMALL}


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.pop("config"),
        lambda entry: entry["config"].update(warp_size=64),  # of a later version
        lambda entry: entry["problem"].update(sparse=True),
        lambda entry: entry["config"].update(tile_n=7),  # no longer valid
        lambda entry: entry["config"].update(tile_n="128"),
        lambda entry: entry["config"].update(tile_n=[128]),
        lambda entry: entry.update(config=None),
    ],
)
def test_entry_of_another_version_is_left_out(damage: Any) -> None:
    store_tuned(*H100, [winner_of(16, SMALL), winner_of(64, LARGE)])
    content = json.loads(tuned_path().read_text())
    damage(content["devices"][_tuned.device_key(*H100)][0])
    tuned_path().write_text(json.dumps(content))
    _tuned._load.cache_clear()
    with pytest.warns(RuntimeWarning, match="1 entries"):
        assert load_tuned(*H100) == {replace(PROBLEM, m=64): LARGE}


def test_interrupted_store_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    before = tuned_path().read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(_tuned.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        store_tuned(*H100, [winner_of(16, LARGE)])
    assert tuned_path().read_bytes() == before
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["tuned.json"]


def test_clearing_the_cache_keeps_what_was_tuned() -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    clear_cache()
    _tuned._load.cache_clear()
    assert load_tuned(*H100) == {PROBLEM: SMALL}


# --- On a GPU ---


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
    assert "Over the shapes" in capsys.readouterr().out


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
    rows = sweep.sweep([GemmProblem(32, 256, 512)], bad, plan=sweep.Plan(rounds=1, work_us=100))
    assert [row.fault.partition(":")[0] for row in rows] == ["wrong", "wrong"]
    assert all(math.isnan(row.us) for row in rows)


@pytest.mark.gpu
def test_tune_keeps_a_valid_winner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune_module, "known_configs", lambda problem: (LARGE, SMALL))
    assert main(["tune", "--shapes", "256x512", "--m", "16", "--rounds", "2", "--work-ms", "0.2"]) == 0
    tuned = load_tuned(machine.device_name(), machine.num_sms())
    assert set(tuned) == {GemmProblem(16, 256, 512)}
    assert f"stored in {tuned_path()}" in capsys.readouterr().out


@pytest.mark.gpu
def test_host_and_chain_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from cupy_w4a16.bench import command

    small = shapes.Model("tiny", 2, (shapes.Shape(384, 256), shapes.Shape(256, 256), shapes.Shape(256, 256)))
    monkeypatch.setattr(command, "MODELS", (small,))
    assert main(["bench", "--chain", "--m", "3", "--rounds", "2"]) == 0
    assert main(["bench", "--host", "--shapes", "256x512", "--m", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("tiny: 2 blocks", "W4A16", "cupy.matmul(out=)"))


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
