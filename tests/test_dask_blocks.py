"""A Linear over the blocks of a Dask array."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from helpers.whole_numbers import whole_numbers

from cupy_w4a16 import Linear
from cupy_w4a16.parallel import map_rows


@pytest.mark.parametrize("shape", [(7, 640), (2, 5, 640), (640,)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dask_blocks_are_the_whole(shape: tuple[int, ...], dtype: str) -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    _, linear = whole_numbers(dtype=dtype)
    a = np.random.default_rng(2).integers(-30, 31, shape).astype(np.float16)
    x = da.from_array(a, chunks=(*(3 for _ in shape[:-1]), 640))
    mapped = map_rows(x, linear)
    plain = x.map_blocks(linear, dtype=linear.dtype, chunks=(*x.chunks[:-1], (linear.out_features,)))
    for c in (mapped, plain):
        assert (c.shape, c.dtype) == ((*shape[:-1], 200), linear.dtype)
        np.testing.assert_array_equal(c.compute(scheduler="threads"), linear(a))
    assert mapped._meta.dtype == linear.dtype


def test_dask_task_pickles() -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    cloudpickle = pytest.importorskip("cloudpickle")
    a, linear = whole_numbers()
    c = map_rows(da.from_array(a, chunks=(2, 640)), linear)
    again = pickle.loads(cloudpickle.dumps(c))
    np.testing.assert_array_equal(again.compute(scheduler="synchronous"), linear(a))


def test_dask_does_not_hash_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    a, linear = whole_numbers()

    def refuse(*_: Any) -> Any:
        raise AssertionError("the weights were pickled")

    monkeypatch.setattr(Linear, "__reduce__", refuse)
    x = da.from_array(a, chunks=(2, 640))
    first, second = map_rows(x, linear), map_rows(x, linear)
    assert first.name != second.name
    np.testing.assert_array_equal(first.compute(scheduler="synchronous"), linear(a))


def test_dask_array_that_does_not_fit() -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    a, linear = whole_numbers()
    with pytest.raises(TypeError, match=r"x is a numpy.ndarray: it must be a Dask array"):
        map_rows(a, linear)
    with pytest.raises(TypeError, match="linear is a builtin_function_or_method: pass a"):
        map_rows(da.from_array(a), len)
    with pytest.raises(ValueError, match="its last axis must be in_features, 640"):
        map_rows(da.from_array(a[:, :512]), linear)
    with pytest.raises(ValueError, match=r"x has 2 chunks along its last axis, k"):
        map_rows(da.from_array(a, chunks=(3, 320)), linear)
