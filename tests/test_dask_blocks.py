"""A Linear over the blocks of a Dask array."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cupy
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


# ------------------------------------------------------------------------------------ on GPUs


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [7, 300])
def test_gpu_blocks_under_threads_are_the_whole(rows: int) -> None:
    da = pytest.importorskip("dask.array", reason="dask comes with the extra [test]")
    # Sums are exact in any order, so that blocks of other sizes may take other configurations.
    a, linear = whole_numbers(m=rows, dtype="float32")
    expected = linear(a)
    linear = linear.to_device()
    x = da.from_array(a, chunks=(-(-rows // 8), 640)).map_blocks(cupy.asarray)
    c = map_rows(x, linear)
    assert isinstance(c._meta, cupy.ndarray)
    back = c.map_blocks(cupy.asnumpy, dtype=linear.dtype)
    np.testing.assert_array_equal(back.compute(scheduler="threads"), expected)
    whole = linear(cupy.asarray(a))
    np.testing.assert_array_equal(cupy.asnumpy(whole), expected)


# A worker as dask_cuda starts them: the first GPU that it sees is its own.
WORKER = """
import pathlib, pickle, sys
import cupy, numpy as np

a, linear, expected = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
assert linear.device == cupy.cuda.runtime.getDevice() == 0
np.testing.assert_array_equal(cupy.asnumpy(linear(cupy.asarray(a))), expected)
print(cupy.cuda.runtime.deviceGetPCIBusId(0))
"""


@pytest.mark.gpu
def test_linear_that_is_unpickled_by_a_worker_is_on_its_gpu(tmp_path: Path) -> None:
    count = int(cupy.cuda.runtime.getDeviceCount())
    if count < 2:
        pytest.skip(f"needs two GPUs: there is {count}")
    a, linear = whole_numbers(dtype="float32")
    path = tmp_path / "linear.pickle"
    path.write_bytes(pickle.dumps((a, linear.to_device(), linear(a))))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    found = [
        subprocess.check_output(
            [sys.executable, "-c", WORKER, str(path)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
            text=True,
        )
        for gpu in visible.split(",")[:2]
    ]
    assert found[0] != found[1]
