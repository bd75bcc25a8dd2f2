"""What `tune` and `bench` compile and time, and what `tune` chooses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.bench import LARGE, PROBLEM, SMALL, bench_arguments, row_of, timing_of

from cupy_w4a16 import CompileError, _cache, _config_table, _load
from cupy_w4a16.__main__ import main
from cupy_w4a16._config import GemmConfig, GemmProblem
from cupy_w4a16._kernels import Unit, kernel_for
from cupy_w4a16._tuned import load_tuned
from cupy_w4a16.bench import BenchError, command, machine, sweep, variants
from cupy_w4a16.bench import tune as tune_module
from cupy_w4a16.bench.report import Row
from cupy_w4a16.bench.variants import Variant

SCALED_SUMS = GemmConfig(64, 16, scale_on="accumulators")
CONFIGS = LARGE, SMALL, SCALED_SUMS
PRESENT = {False: LARGE, True: GemmConfig(128, 64)}  # what a call without and with dependent launch gets


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the kernels that were to be compiled; nothing is."""
    names: set[str] = set()

    def compile_kernels(units: Iterable[Unit], **_: Any) -> int:
        names.update(name for unit in units for name in unit.kernels)
        return 0

    monkeypatch.setattr(tune_module, "compile_kernels", compile_kernels)
    monkeypatch.setattr(_config_table, "configs", lambda problem: CONFIGS)
    monkeypatch.setattr(variants, "present_config", lambda problem, pdl: PRESENT[pdl])
    return names


def row_of_variant(us: float, variant: Variant, problem: GemmProblem) -> Row:
    config = variant.config_for(problem)
    return replace(row_of(us, config, problem), name=variant.name)


# --- What is compiled, and timed ---


@pytest.mark.parametrize(
    ("problem", "normalised"),
    [
        (GemmProblem(17, 256, 512), True),
        (GemmProblem(17, 256, 512, zeros="uint8"), False),
        (GemmProblem(17, 256, 512, zeros="float16"), False),
        (GemmProblem(17, 256, 512, dtype="bfloat16", out_dtype="bfloat16"), False),
    ],
)
def test_tune_compiles_and_times_what_linear_runs(
    problem: GemmProblem, normalised: bool, asked_for: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Variant] = []
    best = {"linear": SCALED_SUMS, "linear-pdl": SMALL}

    def sweep_(problems: Any, ours: Any, **_: Any) -> list[Row]:
        timed.extend(ours(problem))
        return [
            row_of_variant(5.0 if variant.config == best[variant.name] else 10.0, variant, problem)
            for variant in ours(problem)
        ]

    monkeypatch.setattr(tune_module, "sweep", sweep_)
    monkeypatch.setattr(machine, "device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(machine, "num_sms", lambda: 132)
    shown: list[tuple[str, GemmConfig, GemmConfig]] = []

    def show(winner: Row, before: Row) -> None:
        shown.append((winner.name, winner.config, before.config))

    tune_module.tune([problem], tuple(best), sweep.Procedure(), show)
    plain = [("linear", config) for config in CONFIGS]
    dependent = [("linear-pdl", config) for config in (PRESENT[True], *CONFIGS)]
    assert [(variant.name, variant.config) for variant in timed] == plain + dependent
    assert shown == [(name, config, PRESENT[name == "linear-pdl"]) for name, config in best.items()]
    stored = load_tuned("NVIDIA H100 80GB HBM3", 132)
    assert stored == {(problem, False): SCALED_SUMS, (problem, True): SMALL}
    weighted = (LARGE, SMALL, PRESENT[True])
    kernels = {config: kernel_for(config, problem, normalised=normalised).name for config in weighted}
    kernels[SCALED_SUMS] = kernel_for(SCALED_SUMS, problem).name  # never normalised
    assert set(kernels.values()) <= asked_for
    assert any("normalised" in name for name in asked_for) == normalised


@pytest.mark.parametrize("hindrance", ["folder", "lock"])
def test_tuning_file_that_cannot_be_written_is_said_before_anything_is_compiled_or_timed(
    hindrance: str,
    asked_for: set[str],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if hindrance == "folder":
        cache.touch()  # a file where the folder should be: not even root can write there
    else:
        cache.mkdir()
        (cache / "tuned.lock").mkdir()
    monkeypatch.setattr(tune_module, "sweep", pytest.fail)
    for name, value in (
        ("device_name", "NVIDIA H100"),
        ("num_sms", 132),
        ("facts", {}),
        ("require_gpu", None),
    ):
        monkeypatch.setattr(machine, name, lambda *_, value=value: value)
    assert main(["tune", "--shapes", "256x512", "--m", "17"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: the tuning file {cache}/tuned.json can't be written (")
    assert "CUPY_W4A16_CACHE_DIR" in said
    assert not asked_for


@pytest.mark.parametrize(
    ("words", "names", "normalised"),
    [
        ("", {"linear"}, {True}),
        ("--through gemm", {"gemm"}, {False}),
        ("--all-configs", {"linear"}, {True}),
        ("--all-configs --through gemm", {"gemm"}, {False}),
        (f"--config {SMALL.name}", {"linear"}, {True}),
        (f"--config {SMALL.name} --through gemm-pdl linear-pdl", {"gemm-pdl", "linear-pdl"}, {True, False}),
    ],
)
def test_forced_configs_go_through_what_was_asked_for(
    words: str, names: set[str], normalised: set[bool], asked_for: set[str]
) -> None:
    problem = GemmProblem(17, 256, 512)
    chosen = bench_arguments(words)
    configs = [variants.find_config(text, [problem]) for text in chosen.config]
    found = command._variants(chosen, [problem], configs)(problem)
    forced = list(CONFIGS) if chosen.all_configs else configs or [None]
    assert [v.config for v in found] == [config for config in forced for _ in names]
    assert {v.name for v in found} == names
    config = (configs or [LARGE])[0]
    assert {kernel_for(config, problem, normalised=each).name for each in normalised} <= asked_for
    assert any("normalised" in name for name in asked_for) == (True in normalised)


def test_rows_show_and_compile_the_config_that_their_launch_gets(asked_for: set[str]) -> None:
    problem = GemmProblem(17, 256, 512)
    chosen = bench_arguments("--through linear linear-pdl gemm gemm-pdl")
    found = command._variants(chosen, [problem], [])(problem)
    assert {variant.name: variant.config_for(problem) for variant in found} == {
        name: PRESENT[name.endswith("-pdl")] for name in variants.VARIANTS
    }
    kernels = {
        kernel_for(config, problem, normalised=each).name
        for config in PRESENT.values()
        for each in (False, True)
    }
    assert kernels <= asked_for


@pytest.mark.parametrize("allowed", ["0", "1"])
def test_config_shown_is_of_the_launch_that_is_allowed(allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_PDL", allowed)
    monkeypatch.setattr(variants, "current_device", lambda: 0)
    monkeypatch.setattr(variants, "config_for", lambda problem, device, pdl: PRESENT[pdl])
    for name, make in variants.VARIANTS.items():
        is_dependent = name.endswith("-pdl") and allowed == "1"
        assert make(None).config_for(PROBLEM) == PRESENT[is_dependent]


def test_what_does_not_compile_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = GemmProblem(17, 256, 512)
    natural, normalised = variants.gemm_variant(SMALL), variants.linear_variant(SMALL)

    def refuse(units: Iterable[Unit], **_: Any) -> int:
        raise CompileError("w4a16_sm90_gemm_64_f16_g128_normalised does not compile")

    monkeypatch.setattr(tune_module, "compile_kernels", refuse)
    monkeypatch.setattr(_cache, "find", lambda unit: None if "normalised" in unit.name else Path())
    assert tune_module.compiled({problem: [natural, normalised]}) == {problem: [natural]}
    assert "does not compile" in capsys.readouterr().err


def test_configs_of_a_point_share_one_linear_for_each_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class FakeLinear:
        def __init__(self, *_: Any, **options: Any) -> None:
            made.append(options)
            self.got: list[Any] = []

        def __call__(self, a: Any, out: Any, config: Any) -> None:
            self.got.append(config)

    monkeypatch.setattr(variants, "Linear", FakeLinear)
    packed = SimpleNamespace(b_packed=None, scales=None, zeros=None)
    weights = SimpleNamespace(problem=PROBLEM, sets=[packed] * 3, converted={})
    point: Any = SimpleNamespace(problem=PROBLEM, weights=weights, a=None, out=None)
    for config in CONFIGS:
        for call in variants.linear_variant(config).prepare(point):
            call()
    assert made == [{"k": PROBLEM.k, "pdl": False}] * 3
    assert [layer.got for layer in variants.linears(weights)] == [list(CONFIGS)] * 3  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("zeros", ["none", "integer"])
def test_all_that_tune_runs_was_compiled_before(
    zeros: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled_late: list[str] = []
    compile_, sweep_ = _cache._compile, tune_module.sweep

    def late(unit: Any) -> Any:
        compiled_late.append(unit.name)
        return compile_(unit)

    def watched(*given: Any, **options: Any) -> list[Row]:
        monkeypatch.setattr(_cache, "_compile", late)
        return sweep_(*given, **options)

    monkeypatch.setattr(tune_module, "sweep", watched)
    monkeypatch.setattr(_config_table, "configs", lambda problem: CONFIGS)
    _load.load.cache_clear()
    words = f"tune --shapes 256x512 --m 17,64 --zeros {zeros} --rounds 1 --work-ms 0.2"
    assert main(words.split()) == 0, capsys.readouterr()
    assert set(compiled_late) <= {"bench"}


# --- What is chosen ---


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
