"""The command lines of `bench` and `tune`."""

from __future__ import annotations

import re

import cupy
import pytest
from helpers.bench import PROBLEM, SMALL, bench_arguments

from cupy_w4a16 import configs
from cupy_w4a16.__main__ import main
from cupy_w4a16._config import GemmConfig, GemmProblem
from cupy_w4a16.bench import command, variants


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bench --shapes 4096", "NxK"),
        ("bench --m one", "--m"),
        ("bench --group-size 48", "--group-size"),
        ("bench --rounds 0", "--rounds"),
        ("bench --work-ms -1", "--work-ms"),
        ("bench --rest -1", "--rest is -1.0: rests are a multiple, 0 or more"),
        ("bench --rest nan", "--rest is nan"),
        ("tune --shapes 64x128 --rest -0.5", "--rest is -0.5"),
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
    plan = command._plan(bench_arguments(words))
    assert (plan.rest, plan.burst) == (rest, burst)
    assert said in plan.state


def test_bursts_have_no_rests(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--burst", "--rest", "2"])
    assert "not allowed with" in capsys.readouterr().err
