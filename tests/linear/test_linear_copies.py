"""A `Linear` that was pickled, copied or moved stays the same weight."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.fake_driver import no_device
from helpers.linears import K, M, N, assert_same, made, real

from cupy_w4a16 import Linear, UnsupportedDeviceError


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_pickled_and_copied_it_is_the_same(again: Any) -> None:
    a, layer = made("int8", alpha=0.5, activation="silu")
    other = again(layer)
    assert other is not layer
    assert repr(other) == repr(layer)
    np.testing.assert_array_equal(other(a), layer(a))
    without = again(Linear(layer.b_packed, layer.scales, k=K))
    assert without(a).dtype == np.float16
    assert without(a, out=np.empty((M, N), np.float32)).dtype == np.float32  # dtype=None stays None


def test_deep_copy_shares_no_array() -> None:
    _, layer = made("uint8", perm=np.arange(K)[::-1].copy())
    other = copy.deepcopy(layer)
    for name in ("b_packed", "scales", "zeros", "bias", "perm"):
        assert not np.shares_memory(getattr(other, name), getattr(layer, name)), name


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("x", TypeError, "device is 'x': it must be an integer"),
        (0.0, TypeError, "device is 0.0"),
        (2, ValueError, "device is 2: this machine's GPUs go from 0 to 1"),
        (-1, ValueError, "device is -1"),
    ],
)
def test_gpu_that_is_not_there_is_named(
    device: Any, error: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 2)
    with pytest.raises(error, match=message):
        made()[1].to_device(device)


@pytest.mark.parametrize("device", [None, 0])
def test_moving_to_a_gpu_that_no_machine_has_says_why(
    device: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", no_device)
    with pytest.raises(UnsupportedDeviceError, match="no CUDA GPU can be used: cudaErrorNoDevice"):
        made()[1].to_device(device)


def test_pickled_part_goes_without_the_rest() -> None:
    _, layer = made()
    part = layer.split_columns([64])[0]
    assert len(pickle.dumps(part)) < len(pickle.dumps(layer)) / 2


def test_moving_moves_arrays_alone() -> None:
    # A dtype has a shape too.
    a, layer = made(dtype="float32", activation="relu", pdl=False)
    moved = layer._moved(np.copy)
    assert repr(moved) == repr(layer)
    assert not np.shares_memory(moved.b_packed, layer.b_packed)
    np.testing.assert_array_equal(moved(a), layer(a))


@pytest.mark.parametrize("given", [None, False, True])
def test_choice_of_dependent_launch_goes_along_unused_on_numpy(given: bool | None) -> None:
    # On NumPy nothing is launched, but the choice goes along to a GPU.
    a, layer = made(pdl=given)
    again = pickle.loads(pickle.dumps(layer))
    assert (layer.pdl, again.pdl, again._given()["pdl"]) == (False, False, given)
    assert repr(again) == repr(layer)
    assert ("pdl" in repr(layer)) is (given is not None)
    np.testing.assert_array_equal(again(a), layer(a))


@pytest.mark.gpu
def test_it_moves_and_pickles() -> None:
    a, layer = real()
    expected = layer(a)
    assert layer.to_device() is layer
    host = layer.to_numpy()
    assert (host.device, isinstance(host.scales, np.ndarray)) == (None, True)
    assert_same(host.to_device()(a), expected)
    assert_same(pickle.loads(pickle.dumps(layer))(a), expected)
    np.testing.assert_allclose(host(cupy.asnumpy(a)), cupy.asnumpy(expected), rtol=2e-3, atol=5e-3)
