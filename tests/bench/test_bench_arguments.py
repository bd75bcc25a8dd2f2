"""The command lines of `bench` and `tune`."""

from __future__ import annotations

import re

import cupy
import pytest
from helpers.bench import PROBLEM, SMALL, bench_arguments

from cupy_w4a16 import configs
from cupy_w4a16.__main__ import main
from cupy_w4a16._config import GemmConfig, GemmProblem
from cupy_w4a16.bench import arguments, command, shapes, variants


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bench --shapes 4096", "NxK"),
        ("bench --m one", "--m"),
        ("bench --group-size 48", "--group-size"),
        ("bench --group-size 128,", "--group-size"),
        ("bench --zeros integer,some", "--zeros is 'integer,some': it takes none, integer, float"),
        ("bench --rounds 0", "--rounds"),
        ("bench --work-ms -1", "--work-ms"),
        ("bench --rest -1", "--rest is -1.0: rests are a multiple, 0 or more"),
        ("bench --rest nan", "--rest is nan"),
        ("tune --shapes 64x128 --rest -0.5", "--rest is -0.5"),
        ("bench --config nonesuch", "nonesuch"),
        ("bench --config tile_q=3", "tile_q"),
        ("bench --config tile_n=7", "tile_n is 7"),
        ("tune --shapes 64", "NxK"),
        ("bench --chain --shapes 4096x14336", "4096x14336 gives 4096 features, 4096x14336 takes 14336"),
        ("bench --chain --shapes 64x64,128x64,64x256", "128x64 gives 128 features, 64x256 takes 256"),
        ("bench --chain --shapes 64x128,128x64,64x64", "64x64 gives 64 features, 64x128 takes 128"),
        ("bench --chain --group-size 64,32", "--chain and --quantize take one"),
        ("bench --quantize --group-size 64,32", "--chain and --quantize take one"),
        ("bench --chain --csv x.csv", "--chain does not take --csv, but --shapes, --m,"),
        ("bench --chain --zeros integer", "--chain does not take --zeros"),
        ("bench --chain --host", "--host does not take --chain"),
        ("bench --host --plot x.png", "--host does not take --plot"),
        ("bench --host --burst", "--host does not take --burst"),
        ("bench --host --through gemm", "--host does not take --through"),
        ("bench --quantize --shapes 64x64", "--quantize does not take --shapes"),
        ("bench --quantize --peers cublas", "--quantize does not take --peers"),
        ("bench --list-configs --work-ms 1", "--list-configs does not take --work-ms"),
        ("bench --fit x.csv --config large", "--fit does not take --config, but --sms"),
        ("bench --sms 114", "--sms is for --fit"),
    ],
)
def test_mistaken_arguments_end_with_a_sentence(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error


def test_dependent_launch_that_is_switched_off_is_not_tuned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("linear", "linear-pdl")
    monkeypatch.delenv("CUPY_W4A16_PDL", raising=False)
    assert command._launched(both) == ["linear", "linear-pdl"]
    monkeypatch.setenv("CUPY_W4A16_PDL", "0")
    assert command._launched(both) == ["linear"]
    assert main(["tune", "--shapes", "64x128", "--through", "linear-pdl"]) == 2
    assert "error: --through linear-pdl: CUPY_W4A16_PDL=0 switches" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "bench",
        "bench --host --shapes 64x128 --m 1,2 --zeros float",
        "bench --chain --shapes 64x64 --m 4 --rest 0 --group-size -1",
        "bench --quantize --group-size 64 --rounds 2",
        "bench --all-configs --csv x.csv",
        "tune --shapes 64x128",
    ],
)
def test_without_a_gpu_there_is_a_sentence(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_device() -> int:
        raise cupy.cuda.runtime.CUDARuntimeError(100)  # cudaErrorNoDevice

    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", no_device)
    assert main(words.split()) == 2
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
    known = configs(GemmProblem(16, 256, 512))
    assert [config.name for config in known] == names
    assert variants.find_config(names[-1], [GemmProblem(16, 256, 512)]) == known[-1]


@pytest.mark.parametrize(
    ("words", "rest", "burst", "said"),
    [
        ("", 3, False, "a cool GPU: a rest of 3 x its time"),
        ("--rest 0.5", 0.5, False, "a rest of 0.5 x its time"),
        ("--rest 0", 0, False, "a hot GPU: graphs back to back, no rests"),
        ("--burst", 3, True, "a hot GPU: bursts of 0.1 s, no rests"),
    ],
)
def test_state_of_the_gpu_is_said(words: str, rest: float, burst: bool, said: str) -> None:
    procedure = command._procedure(bench_arguments(words))
    assert (procedure.rest, procedure.burst) == (rest, burst)
    assert said in procedure.state


@pytest.mark.parametrize("words", ["--burst --rest 2", "--all-configs --config large"])
def test_options_that_exclude_each_other(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", *words.split()])
    assert "not allowed with" in capsys.readouterr().err


def test_listed_kinds_of_weights_are_points_of_their_own() -> None:
    words = "--shapes 256x512,256x512 --m 2,1 --group-size 128,-1,128 --zeros none,float --dtype bfloat16"
    assert arguments.problems_of(bench_arguments(words)) == [
        GemmProblem(m, 256, 512, group_size, "bfloat16", zeros, "bfloat16")
        for group_size in (128, -1)
        for zeros in (None, "bfloat16")
        for m in (1, 2)
    ]


def test_own_chain_is_one_block_of_every_shape_in_order() -> None:
    (model,) = arguments.models_of(bench_arguments("--chain --shapes 96x64,64x96,64x64,64x64"))
    assert (model.blocks, model.layers) == (1, ((96, 64), (64, 96), (64, 64), (64, 64)))
    assert arguments.models_of(bench_arguments("--chain")) == shapes.MODELS
