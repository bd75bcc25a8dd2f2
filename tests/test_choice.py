"""The config of a call that names none: the one for how it is launched, through `gemm` and `Linear` alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_driver import FakeDriver, on_gpu

from cupy_w4a16 import GemmConfig, GemmProblem, Linear, _choice, _device, _gemm, _tuned, choose_config, gemm
from cupy_w4a16._tuned import Winner, store_tuned

M, N, K = 48, 512, 1024
A, B, SCALES, OUT, COPY = (i << 40 for i in range(1, 6))
CHOSEN = {False: GemmConfig(128, 128), True: GemmConfig(64, 64)}  # without and with dependent launch
TUNED = GemmConfig(256, 64)


@pytest.fixture
def driver(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    monkeypatch.setattr(_choice, "fastest_config", lambda problem, num_sms, pdl: CHOSEN[pdl])
    monkeypatch.setattr(_gemm, "aligned_copy", lambda a, problem, workspace: on_gpu((M, K), "f2", COPY))
    return driver


def calls(pdl: bool, at: int = A) -> dict[str, Any]:
    """Calls of the same product by name; they take `config`."""
    weight = on_gpu((8, 8, 1024), "i4", B), on_gpu((8, N), "f2", SCALES)
    a, out = on_gpu((M, K), "f2", at), on_gpu((M, N), "f2", OUT)
    return {
        "gemm": partial(gemm, a, *weight, group_size=128, out=out, pdl=pdl),
        "Linear": partial(Linear(*weight, group_size=128, pdl=pdl), a, out),
    }


@pytest.mark.parametrize("name", ["gemm", "Linear"])
@pytest.mark.parametrize("at", [A, A + 2], ids=["in place", "copied"])
@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("allowed", ["0", "1"])
def test_config_is_the_one_for_the_launch_there_is(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, name: str, at: int, pdl: bool, allowed: str
) -> None:
    monkeypatch.setenv("CUPY_W4A16_PDL", allowed)
    call = calls(pdl, at)[name]
    is_dependent = pdl and allowed == "1"
    for config in (None, CHOSEN[is_dependent], CHOSEN[not is_dependent]):
        call(config=config)
    chosen, same, other = driver.launches
    assert chosen == same
    assert chosen != other


@pytest.mark.parametrize("name", ["gemm", "Linear"])
@pytest.mark.parametrize("tuned_pdl", [False, True])
def test_winner_of_one_kind_of_launch_is_not_used_for_the_other(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, tuned_pdl: bool
) -> None:
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_choice, "tuned_config", _tuned.tuned_config)
    store_tuned("NVIDIA H100 80GB HBM3", 132, [Winner(GemmProblem(M, N, K), TUNED, 5.0, tuned_pdl)])
    for pdl, config in ((tuned_pdl, TUNED), (not tuned_pdl, CHOSEN[not tuned_pdl])):
        call = calls(pdl)[name]
        call()
        chosen = driver.last
        call(config=config)
        assert chosen == driver.last


@pytest.mark.usefixtures("driver")
def test_what_is_said_to_be_chosen_is_what_a_call_gets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    problem = GemmProblem(M, N, K)
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_choice, "tuned_config", _tuned.tuned_config)
    store_tuned("NVIDIA H100 80GB HBM3", 132, [Winner(problem, TUNED, 5.0)])
    monkeypatch.setattr(_device, "has_hopper", lambda: True)
    assert [choose_config(problem), choose_config(problem, pdl=True)] == [TUNED, CHOSEN[True]]
    assert choose_config(problem, num_sms=132) == CHOSEN[False]  # pure: whatever this machine was tuned for
    monkeypatch.setattr(_device, "has_hopper", lambda: False)
    assert choose_config(problem) == CHOSEN[False]
