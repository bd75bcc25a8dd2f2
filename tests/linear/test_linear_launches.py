"""What a `Linear` remembers of its calls never reaches a call that is another."""

from __future__ import annotations

import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.fake_calls import BIAS, OUT, SCALES, ZEROS, A, activations, on_a_gpu, result
from helpers.fake_driver import FakeDriver, Stream, on_gpu

from cupy_w4a16 import GemmConfig, gemm, linear
from cupy_w4a16._bounded import Bounded

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"zeros": on_gpu((8, 512), "u1", ZEROS), "bias": on_gpu((512,), "f2", BIAS)},
        {"alpha": 2.0, "activation": "gelu"},
    ],
)
def test_launch_is_that_of_gemm(driver: FakeDriver, options: dict[str, Any]) -> None:
    layer, a, out = on_a_gpu(**options), activations(), result()
    gemm(a, layer.b_packed, layer.scales, group_size=128, out=out, pdl=True, **options)
    for _ in range(2):
        assert layer(a, out=out) is out
        assert driver.last == driver.launches[0]
    assert len(driver.launches) == 3


@pytest.mark.parametrize(
    ("error", "config", "message"),
    [
        (TypeError, [GemmConfig()], "config is a list: pass a GemmConfig"),
        (ValueError, GemmConfig(tile_n=[128]), r"tile_n is \[128\]; allowed are 64"),  # type: ignore[arg-type]
    ],
)
def test_config_that_cannot_be_looked_up_is_named(
    driver: FakeDriver, error: Any, config: Any, message: str
) -> None:
    layer, a, out = on_a_gpu(), activations(), result()
    layer(a, out)
    with pytest.raises(error, match=message) as caught:
        layer(a, out, config)
    assert caught.value.__context__ is None  # or the traceback would begin with what can't be hashed
    assert len(driver.launches) == 1


def test_call_seen_before_encodes_nothing(driver: FakeDriver) -> None:
    layer, a, out = on_a_gpu(), activations(), result()
    layer(a, out)
    maps = driver.maps
    layer(a, out)
    assert (driver.maps, len(driver.launches)) == (maps, 2)


@pytest.mark.parametrize(
    ("a", "out"),
    [
        (activations(2), result(2)),
        (activations(strides=(2064, 2)), result()),
        (activations(), result(strides=(1040, 2))),
        (activations(at=A + 64), result()),
        (activations(), result(at=OUT + 64)),
        (activations(), on_gpu((3, 512), "f4", OUT)),
        (on_gpu((3, 1, 1024), "f2", A), on_gpu((3, 1, 512), "f2", OUT)),
    ],
    ids=["m", "stride of a", "stride of out", "a", "out", "float32", "axes"],
)
def test_memory_used_again_for_something_else_gets_a_launch_of_its_own(
    driver: FakeDriver, a: Any, out: Any
) -> None:
    layer = on_a_gpu()
    layer(activations(), result())
    layer(a, out)
    on_a_gpu()(a, out)
    assert driver.launches[1] == driver.launches[2]
    layer(activations(), result())
    assert driver.last == driver.launches[0]


def test_each_stream_and_config_has_its_launch(driver: FakeDriver) -> None:
    layer, a, out = on_a_gpu(), activations(), result()
    one, other = GemmConfig(128, 16), GemmConfig(128, 32)
    for stream, config, alike in ((1, one, 0), (2, one, 0), (1, other, 2), (1, one, 0)):
        Stream.ptr = stream
        layer(a, out, config)
        assert (driver.last.stream, driver.last.function) == (stream, driver.launches[alike].function)
    assert driver.launches[3] == driver.launches[0]
    assert len({(each.stream, each.function) for each in driver.launches}) == 3


def test_caches_are_bounded(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_MAX_PLANS", 4)
    monkeypatch.setattr(linear, "_MAX_LAUNCHES", 4)
    layer = on_a_gpu()
    for m in range(1, 20):
        layer(activations(m), result(m))
        assert driver.last.params["m"] == m
    assert (len(layer._plans), len(layer._launches)) == (4, 4)
    assert isinstance(layer._launches, Bounded)


def test_good_call_makes_no_bad_one_pass(driver: FakeDriver) -> None:
    layer, a = on_a_gpu(), activations()
    layer(a, result())
    for error, bad_a, bad_out, message in (
        (ValueError, a, result(at=A), "out overlaps a"),
        (ValueError, a, result(at=SCALES), "out overlaps scales"),
        (ValueError, a, result(at=A, m=3, device=1), "out is on GPU 1"),
        (ValueError, activations(device=1), result(), "a is on GPU 1"),
        (ValueError, a, result(n=511), "out is of shape"),
        (ValueError, activations(k=1023), None, "in_features, 1024"),
        (ValueError, activations(k=1023), result(), "in_features, 1024"),
        (TypeError, on_gpu((3, 1024), BFLOAT16, A), result(), "bfloat16"),
        (TypeError, a, on_gpu((3, 512), BFLOAT16, OUT), "out is bfloat16"),
        (TypeError, np.zeros((3, 1024), np.float16), None, "mixed"),
    ):
        with pytest.raises(error, match=message):
            layer(bad_a, bad_out)
    assert len(driver.launches) == 1


def test_address_that_cannot_be_read_in_place_goes_by_gemm(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = on_a_gpu(dtype="float32")
    layer(activations(), on_gpu((3, 512), "f4", OUT))
    asked = []
    monkeypatch.setattr(linear, "gemm", lambda *given, **options: asked.append((given, options)))
    a, out = activations(at=A + 2), on_gpu((3, 512), "f4", OUT)
    layer(a, out)
    ((given, options),) = asked
    assert (given[0] is a, given[1] is layer.b_packed, options["out"] is out) == (True, True, True)
    assert len(driver.launches) == 1


def test_threads_share_a_linear(driver: FakeDriver) -> None:
    layer = on_a_gpu()
    failed = []

    def call(start: int) -> None:
        try:
            for i in range(200):
                m = 1 + (start + i) % 90
                layer(activations(m), result(m))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=call, args=(17 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(driver.launches) == 800
    # The mma family has no tensor maps.
    maps = [(each.params["m"], each.params[x]) for each in driver.launches for x in ("a_map", "a_tail_map")]
    written = [(m, a_map) for m, a_map in maps if any(a_map)]
    assert len(written) > 600
    assert all(a_map[3] == m for m, a_map in written)
