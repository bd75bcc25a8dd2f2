"""`Linear(perm=)` on a GPU: one gather, then one product; what is gathered, and how long the copy is kept."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.fake_driver import FakeDriver, Stream, on_gpu

from cupy_w4a16 import GemmConfig, Linear, W4A16Error, _compiler, _gather, gemm
from cupy_w4a16.testing import assert_gemm_close, make_problem

A, B, SCALES, PERM, OUT, POOL = (i << 40 for i in range(1, 7))


@pytest.fixture
def gathers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The gathers a fake driver was asked for, as launched."""
    asked: list[tuple[Any, ...]] = []

    class Kernel:
        def compile(self) -> None: ...

        def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
            asked.append((grid, block, arguments, shared_mem))

    monkeypatch.setattr(_gather, "_kernel", Kernel)
    monkeypatch.setattr(_gather, "num_sms", lambda device: 132)
    monkeypatch.setattr(cupy, "asnumpy", lambda x: np.arange(x.size))
    return asked


@pytest.fixture
def driver(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    places = itertools.count(POOL, 1 << 36)
    monkeypatch.setattr(cupy, "empty", lambda shape, dtype: on_gpu(shape, dtype, next(places)))
    return driver


def on_a_gpu(k: int = 1024, **options: Any) -> Linear:
    b_packed = on_gpu((8, -(-k // 128), 1024), "i4", B)
    scales = on_gpu((-(-k // 128), 512), "f2", SCALES)
    return Linear(b_packed, scales, None, 128, k=k, perm=on_gpu((k,), "i4", PERM), **options)


@pytest.mark.parametrize(
    ("m", "k", "grid", "staged_bytes"),
    [
        (1, 1024, (1, 1), 0),
        (3, 4096, (3, 2), 0),
        (3, 4100, (3, 3), 0),
        (132, 4096, (132, 1), 8192),
        (5000, 24576, (5000, 1), 49152),
        (5000, 28672, (5000, 1), 0),
    ],
)
def test_one_gather_then_one_product(
    driver: FakeDriver, gathers: list[Any], m: int, k: int, grid: Any, staged_bytes: int
) -> None:
    layer, out = on_a_gpu(k), on_gpu((m, 512), "f2", OUT)
    assert layer(on_gpu((m, k), "f2", A), out=out) is out
    assert gathers == [(grid, (256,), (POOL, A, PERM, k, k, 1, int(staged_bytes > 0)), staged_bytes)]
    assert len(driver.launches) == 1
    padded = 2 * -(-k // 8) * 8  # rows that the copy engine takes
    assert (driver.last.params["a"], driver.last.params["a_row_bytes"]) == (POOL, padded)
    assert driver.last.params["out"] == OUT


@pytest.mark.parametrize(("k", "height"), [(1 << 27, 65535), (1 << 28, 65535), ((1 << 27) - 2048, 65535)])
def test_grid_of_the_longest_rows_is_one_that_cuda_takes(
    driver: FakeDriver, gathers: list[Any], k: int, height: int
) -> None:
    _gather.gathered(cupy, on_gpu((1, k), "f2", A), on_gpu((k,), "i4", PERM))
    assert gathers[-1][0] == (1, height)


def test_activations_of_any_strides_are_gathered_where_they_lie(
    driver: FakeDriver, gathers: list[Any]
) -> None:
    layer = on_a_gpu()
    for strides in ((2, 6), (4100, 2), (-4, 4)):
        layer(on_gpu((3, 1024), "f2", A + 2, strides))
        assert gathers[-1][2][4:6] == (strides[0] // 2, strides[1] // 2)
        assert gathers[-1][2][1] == A + 2
    layer(on_gpu((2, 3, 1024), "f2", A))
    assert gathers[-1][0] == (6, 1)


def test_nothing_is_gathered_for_a_bad_call(driver: FakeDriver, gathers: list[Any]) -> None:
    layer, a = on_a_gpu(), on_gpu((3, 1024), "f2", A)
    for bad_a, out, config, message in (
        (a, on_gpu((3, 512), "f2", A), None, "out overlaps a"),
        (a, on_gpu((3, 512), "f2", SCALES), None, "out overlaps scales"),
        (a, on_gpu((3, 511), "f2", OUT), None, "out is of shape"),
        (on_gpu((3, 1000), "f2", A), None, None, "in_features, 1024"),
        (on_gpu((3, 1024), "f2", A, device=1), None, None, "a is on GPU 1"),
        (a, None, GemmConfig(96), "tile_n is 96"),
    ):
        with pytest.raises(ValueError, match=message):
            layer(bad_a, out, config)
    assert (gathers, driver.launches) == ([], [])


def test_gather_kernel_compiles_for_hopper() -> None:
    compiled = _compiler.compile_source(_gather._SOURCE, "gather")
    (resources,) = compiled.resources
    assert (resources.kernel, resources.stack_bytes) == ("gather_k", 0)


def test_empty_products_gather_nothing(driver: FakeDriver, gathers: list[Any]) -> None:
    layer = on_a_gpu()
    assert layer(on_gpu((0, 1024), "f2", A)).shape == (0, 512)
    assert gathers == []


def test_gathered_copies_of_a_capture_are_kept_as_long_as_the_linear(
    driver: FakeDriver, gathers: list[Any]
) -> None:
    layer, a = on_a_gpu(), on_gpu((3, 1024), "f2", A)
    layer(a)
    assert layer._captured == []
    Stream.capturing = True
    with pytest.raises(W4A16Error, match="make it before the capture"):
        on_a_gpu()
    layer(a)
    layer(a)
    kept = {x.data.ptr for x in layer._captured}
    gathered = {arguments[0] for _, _, arguments, _ in gathers[1:]}
    assert len(gathered) == 2
    assert gathered <= kept
    assert driver.last.params["a"] in kept


# ------------------------------------------------------------------------------------ on a GPU


def real(m: int, k: int = 520, n: int = 192, dtype: str = "float16") -> tuple[Any, Any, Linear, Linear]:
    """Activations on both sides, and a Linear with perm on NumPy and on the GPU."""
    a, b_packed, scales, zeros, group = make_problem(m, n, k, 64, dtype=dtype, zeros="integer")
    perm = np.random.default_rng(m).permutation(k)
    host = Linear(b_packed, scales, zeros, group, k=k, perm=perm)
    return a, cupy.asarray(a), host, host.to_device()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("m", "k"), [(1, 520), (7, 4100), (131, 130), (132, 4096), (200, 516), (140, 28672)])
def test_gpu_gives_the_product_of_the_gathered(m: int, k: int, dtype: str) -> None:
    a, a_gpu, host, layer = real(m, k, dtype=dtype)
    weight = (layer.b_packed, layer.scales, layer.zeros, layer.group_size)
    ordered = np.ascontiguousarray(a[:, host.perm])
    expected = cupy.asnumpy(gemm(cupy.asarray(ordered), *weight, pdl=layer.pdl))  # the same config
    np.testing.assert_array_equal(cupy.asnumpy(layer(a_gpu)), expected)
    out = cupy.empty((m, 192), expected.dtype)
    assert layer(a_gpu, out=out) is out
    np.testing.assert_array_equal(cupy.asnumpy(out), expected)
    assert_gemm_close(expected, ordered, host.b_packed, host.scales, host.zeros, host.group_size)


@pytest.mark.gpu
def test_gpu_gathers_from_any_strides_and_axes() -> None:
    a, _, _, layer = real(140)
    expected = cupy.asnumpy(layer(cupy.asarray(a)))
    wide = np.zeros((140, 2 * 520 + 3), np.float16)
    wide[:, 3::2] = a
    for view in (
        cupy.asarray(wide)[:, 3::2],
        cupy.asarray(np.asfortranarray(a)),
        cupy.asarray(a[::-1].copy())[::-1],
    ):
        np.testing.assert_array_equal(cupy.asnumpy(layer(view)), expected)
    stacked = layer(cupy.asarray(a).reshape(4, 35, 520))
    np.testing.assert_array_equal(cupy.asnumpy(stacked).reshape(140, 192), expected)


@pytest.mark.gpu
def test_gpu_permuted_linear_moves_splits_and_pickles() -> None:
    _, a_gpu, host, layer = real(9)
    expected = cupy.asnumpy(layer(a_gpu))
    for again in (pickle.loads(pickle.dumps(layer)), layer.to_numpy().to_device()):
        np.testing.assert_array_equal(cupy.asnumpy(again(a_gpu)), expected)
    config = GemmConfig(64, 128, schedule="pingpong")
    whole = cupy.asnumpy(layer(a_gpu, config=config))
    parts = [cupy.asnumpy(part(a_gpu, config=config)) for part in layer.split_columns(3)]
    np.testing.assert_array_equal(np.hstack(parts), whole)
    with pytest.raises(ValueError, match="act-order"):
        layer.split_rows([128])
    with pytest.raises(TypeError, match="mixed"):
        Linear(layer.b_packed, layer.scales, layer.zeros, 64, k=520, perm=host.perm)
    repeated = cupy.asarray(np.r_[0, np.arange(519)])
    with pytest.raises(ValueError, match="perm holds 0 2 times"):
        Linear(layer.b_packed, layer.scales, layer.zeros, 64, k=520, perm=repeated)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [3, 150])
def test_captured_permuted_calls_replay_whatever_the_pool_does_meanwhile(m: int) -> None:
    a, a_gpu, _, layer = real(m, 512, 512)
    expected = cupy.asnumpy(layer(a_gpu))  # loads the kernels
    out = cupy.empty((m, 512), cupy.float16)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        layer(a_gpu, out=out)
        graph = stream.end_capture()
    # Memory that others take and write after the capture.
    others = [cupy.empty(a_gpu.shape, a_gpu.dtype) for _ in range(8)]
    with stream:
        others += [cupy.empty(a_gpu.shape, a_gpu.dtype) for _ in range(8)]
    for other in others:
        other.data.memset_async(0, other.nbytes, stream)
    for _ in range(2):
        out.data.memset_async(0xFF, out.nbytes, stream)
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(cupy.asnumpy(out), expected)
    assert all(not cupy.asnumpy(other).any() for other in others), "a replay wrote to memory of others"
    reversed_a = cupy.asarray(a[::-1].copy())
    again = cupy.asnumpy(layer(reversed_a))
    a_gpu.data.copy_from_device_async(reversed_a.data, a_gpu.nbytes, stream)  # replays read what stands there
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(cupy.asnumpy(out), again)


@pytest.mark.gpu
def test_permuted_linear_with_dependent_launch_gives_the_same_bits() -> None:
    _, a_gpu, _, layer = real(16, 512, 512)
    weight = layer.b_packed, layer.scales, layer.zeros, layer.group_size
    plain, dependent = (Linear(*weight, perm=layer.perm, pdl=pdl) for pdl in (False, True))
    assert dependent.pdl
    config = GemmConfig(64, 16)
    expected = cupy.asnumpy(plain(a_gpu, config=config))
    for _ in range(20):
        np.testing.assert_array_equal(cupy.asnumpy(dependent(a_gpu, config=config)), expected)
