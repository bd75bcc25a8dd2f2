"""What `gemm` remembers of its calls never reaches a call that is another."""

from __future__ import annotations

import math
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.fake_calls import BIAS, OUT, SCALES, ZEROS, A, B, K, M, N, arrays
from helpers.fake_driver import FakeDriver, Stream, on_gpu

from cupy_w4a16 import GemmConfig, _gemm, gemm
from cupy_w4a16._bounded import Bounded

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def test_call_seen_before_encodes_nothing(driver: FakeDriver) -> None:
    given = arrays()
    gemm(**given)
    maps = driver.maps
    for _ in range(3):
        assert gemm(**given) is given["out"]
    assert (driver.maps, len(driver.launches)) == (maps, 4)
    assert driver.launches[0] == driver.last


def changes() -> list[tuple[str, dict[str, Any]]]:
    """What makes a call another one that lies at the same addresses, or all but one of them."""
    half = arrays(dtype=BFLOAT16) | {"bias": on_gpu((N,), BFLOAT16, BIAS)}
    narrow = {"zeros": on_gpu((8, N - 64), "u1", ZEROS), "bias": on_gpu((N - 64,), "f2", BIAS)}
    return [
        ("fewer rows", {"a": on_gpu((M - 1, K), "f2", A), "out": on_gpu((M - 1, N), "f2", OUT)}),
        ("row stride of a", {"a": on_gpu((M, K), "f2", A, strides=(2 * K + 16, 2))}),
        ("row stride of out", {"out": on_gpu((M, N), "f2", OUT, strides=(2 * N + 16, 2))}),
        ("another k", arrays(k=K - 8)),
        ("another n", arrays(n=N - 64) | narrow),
        ("bfloat16", half),
        ("float32 out", {"out": on_gpu((M, N), "f4", OUT)}),
        ("alpha", {"alpha": 0.0}),
        ("symmetric", {"zeros": None}),
        ("other zeros", {"zeros": on_gpu((8, N), "u1", ZEROS + (1 << 30))}),
        ("wider zeros", {"zeros": on_gpu((8, N), "i4", ZEROS)}),
        ("zeros apart", {"zeros": on_gpu((8, N), "u1", ZEROS, strides=(N + 16, 1))}),
        ("no bias", {"bias": None}),
        ("other bias", {"bias": on_gpu((N,), "f2", BIAS + (1 << 30))}),
        ("activation", {"activation": "relu"}),
        ("groups", {"group_size": 256, "scales": on_gpu((4, N), "f2", SCALES), "zeros": None}),
        ("config", {"config": GemmConfig(128, 32)}),
        ("dependent", {"pdl": True}),
        ("other a", {"a": on_gpu((M, K), "f2", A + (1 << 30))}),
        ("other out", {"out": on_gpu((M, N), "f2", OUT + (1 << 30))}),
        ("other weight", {"b_packed": on_gpu((8, 8, 1024), "i4", B + (1 << 30))}),
        ("other scales", {"scales": on_gpu((8, N), "f2", SCALES + (1 << 30))}),
        ("scales apart", {"scales": on_gpu((8, N), "f2", SCALES, strides=(2 * N + 16, 2))}),
        ("blocks apart", {"b_packed": on_gpu((8, 8, 1024), "i4", B, strides=(9 * 4096, 4096, 4))}),
    ]


@pytest.mark.parametrize("changed", [change for _, change in changes()], ids=[name for name, _ in changes()])
def test_memory_used_again_for_something_else_gets_a_launch_of_its_own(
    driver: FakeDriver, changed: dict[str, Any]
) -> None:
    before = arrays() | {"zeros": on_gpu((8, N), "u1", ZEROS), "bias": on_gpu((N,), "f2", BIAS)}
    gemm(**before)
    gemm(**before | changed)
    _gemm._plans.clear()
    _gemm._launches.clear()
    gemm(**before | changed)
    gemm(**before)
    first, after, alone, again = driver.launches
    assert after == alone != first  # what it is without the call before
    assert again == first


def test_minus_0_and_0_are_told_apart(driver: FakeDriver) -> None:
    signs = []
    for alpha in (0.0, -0.0, 0.0):
        gemm(**arrays(), alpha=alpha)
        signs.append(math.copysign(1, driver.last.params["alpha"]))
    assert signs == [1, -1, 1]


def test_each_stream_has_its_launch(driver: FakeDriver) -> None:
    for stream in (0, 0x51, 0x52, 0x51):
        Stream.ptr = stream
        gemm(**arrays())
        assert driver.last.stream == stream


def test_good_call_makes_no_bad_one_pass(driver: FakeDriver) -> None:
    gemm(**arrays(), alpha=1.0)
    with pytest.raises(TypeError, match="alpha"):
        gemm(**arrays(), alpha=True)
    with pytest.raises(TypeError, match="group_size"):
        gemm(**arrays() | {"group_size": 128.0})
    with pytest.raises(ValueError, match="out is on GPU 1"):
        gemm(**arrays() | {"out": on_gpu((M, N), "f2", OUT, device=1)})
    with pytest.raises(ValueError, match="out overlaps a"):
        gemm(**arrays() | {"out": on_gpu((M, N), "f2", A)})
    with pytest.raises(TypeError, match="activation"):
        gemm(**arrays(), activation=[])
    with pytest.raises(TypeError, match="config is a str"):
        gemm(**arrays(), config="w4a16_sm90_gemm_64")
    with pytest.raises(ValueError, match="tile_n is 96"):
        gemm(**arrays(), config=GemmConfig(96))
    for pdl in (1, 0, None, np.True_):  # two of them equal to a bool
        with pytest.raises(TypeError, match=r"pdl is .*pass True or False"):
            gemm(**arrays(), pdl=pdl)
    assert len(driver.launches) == 1


def test_caches_are_bounded(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gemm, "_plans", Bounded(4))
    monkeypatch.setattr(_gemm, "_launches", Bounded(4))
    for m in range(1, 20):
        gemm(**arrays(m=m))
        assert driver.last.params["m"] == m
    assert (len(_gemm._plans), len(_gemm._launches)) == (4, 4)


def test_bounded_cache_keeps_its_bound_when_threads_fill_it() -> None:
    cache = Bounded(8)

    def fill(start: int) -> None:
        for i in range(2000):
            cache.put(start + i, i)

    threads = [threading.Thread(target=fill, args=(10_000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) <= 8 + len(threads)  # each may be between its look and its entry
