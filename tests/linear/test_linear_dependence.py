"""Dependent launches of a `Linear`: as asked for, and never ahead of its weights."""

from __future__ import annotations

import pytest
from helpers.fake_calls import ZEROS, A, activations, on_a_gpu, result
from helpers.fake_driver import DEPENDENT, FakeDriver, Stream

from cupy_w4a16 import GemmConfig, W4A16Error, _gemm, _pdl


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("given", [None, False, True])
@pytest.mark.parametrize("allowed", [None, "0", "1"])
def test_dependent_launch_is_what_was_asked_for(
    driver: FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
    default: bool,
    given: bool | None,
    allowed: str | None,
) -> None:
    monkeypatch.setattr(_pdl, "LINEAR_DEFAULT", default)
    if allowed is not None:
        monkeypatch.setenv("CUPY_W4A16_PDL", allowed)
    wanted = allowed != "0" and (default if given is None else given)
    layer = on_a_gpu(pdl=given)
    assert layer.pdl is wanted
    for part in (layer, layer.split_columns([64])[0], layer.split_rows([128])[0]):
        for _ in range(2):
            part(activations(k=part.in_features), result(n=part.out_features), GemmConfig(64, 16))
            assert driver.last.attributes == ((DEPENDENT, (1,)),) * wanted


def test_weights_that_are_read_early_are_waited_for_once(driver: FakeDriver) -> None:
    on_a_gpu(pdl=False)
    assert Stream.waits == 0
    layer = on_a_gpu(pdl=True)
    assert Stream.waits == 1
    layer(activations(), result())
    layer(activations(2), result(2))
    assert Stream.waits == 1


def test_weights_cannot_be_waited_for_inside_a_capture(driver: FakeDriver) -> None:
    Stream.capturing = True
    on_a_gpu(pdl=False)
    assert not on_a_gpu().pdl  # nobody asked for it
    with pytest.raises(W4A16Error, match="make it before the capture, or pass pdl=False"):
        on_a_gpu(pdl=True)


def test_copied_a_is_multiplied_by_a_dependent_launch_too(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gemm, "aligned_copy", lambda a, problem, workspace: activations(at=ZEROS))
    on_a_gpu(pdl=True)(activations(at=A + 2), result(), GemmConfig(64, 16))
    assert driver.last.attributes == ((DEPENDENT, (1,)),)
