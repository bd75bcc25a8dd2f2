"""`Linear`: the same as `gemm`, whatever is remembered; pickled, moved and cut it stays the same weight."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest
from helpers import fake_driver
from helpers.fake_driver import DEPENDENT, FakeDriver, Stream, on_gpu

from cupy_w4a16 import (
    GemmConfig,
    GemmProblem,
    Linear,
    W4A16Error,
    _gemm,
    _pdl,
    dequantize,
    gemm,
    linear,
    pack,
    workspace_bytes,
)
from cupy_w4a16._bounded import Bounded
from cupy_w4a16.testing import make_problem

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
M, N, K = 5, 200, 384
A, B, SCALES, ZEROS, BIAS, OUT = (1 << 40, 2 << 40, 3 << 40, 4 << 40, 5 << 40, 6 << 40)


def made(zeros: str | None = None, group_size: int = 128, k: int = K, **options: Any) -> tuple[Any, Linear]:
    """Activations and a `Linear` on NumPy of whole numbers: sums in any order are the same."""
    rng = np.random.default_rng(1)
    rows = 1 if group_size == -1 else -(-k // group_size)
    q = rng.integers(0, 16, (k, N), dtype=np.uint8)
    scales = rng.choice([-1, 1, 2], (rows, N)).astype(np.float16)
    zero = None if zeros is None else rng.integers(0, 17, (rows, N)).astype(zeros)
    bias = rng.integers(-4, 5, N).astype(np.float16)
    a = rng.integers(-1, 2, (M, k)).astype(np.float16)
    return a, Linear(pack(q), scales, zero, group_size, k=k, bias=bias, **{"dtype": "float32", **options})


def weight_of(layer: Linear) -> Any:
    return dequantize(layer.b_packed, layer.scales, layer.zeros, layer.group_size, k=layer.in_features)


# ------------------------------------------------------------------------------------ on NumPy


@pytest.mark.parametrize("zeros", [None, "uint8", "float32"])
@pytest.mark.parametrize("group_size", [32, 256, -1])
def test_call_is_gemm(zeros: str | None, group_size: int) -> None:
    a, layer = made(zeros, group_size, alpha=0.5, activation="relu")
    expected = gemm(
        a, layer.b_packed, layer.scales, layer.zeros, group_size,
        bias=layer.bias, alpha=0.5, activation="relu", dtype="float32",
    )  # fmt: skip
    out = np.empty((M, N), np.float32)
    assert layer(a, out=out) is out
    for c in (layer(a), out, layer(a, None, GemmConfig(64, 16, schedule="pingpong"))):
        np.testing.assert_array_equal(c, expected)
    assert expected.dtype == np.float32
    assert expected.any()


def test_leading_axes_come_back() -> None:
    a, layer = made()
    assert layer(a[0]).shape == (N,)
    assert layer(a[None, :, None]).shape == (1, M, 1, N)


def test_it_shows_what_it_is() -> None:
    _, layer = made("uint8", alpha=0.5, activation="gelu")
    assert repr(layer) == (
        "Linear(384 -> 200, group_size=128, zeros=uint8, bias, alpha=0.5, activation='gelu', float32, numpy)"
    )
    assert (layer.in_features, layer.out_features, layer.group_size) == (K, N, 128)
    assert (layer.dtype, layer.device, layer.alpha, layer.activation) == (np.float32, None, 0.5, "gelu")
    assert layer.nbytes == 4 * 3 * 4096 + 3 * N * 2 + 3 * N + 2 * N


def test_it_cannot_be_changed() -> None:
    _, layer = made()
    for name in (
        "b_packed",
        "scales",
        "zeros",
        "bias",
        "alpha",
        "activation",
        "group_size",
        "dtype",
        "other",
    ):
        with pytest.raises(AttributeError):
            setattr(layer, name, None)


def test_k_that_is_not_in_features() -> None:
    # 300 and 384 have as many blocks and groups: gemm alone could not tell.
    a, layer = made()
    with pytest.raises(
        ValueError, match="a is of shape \\(5, 300\\): its last axis must be in_features, 384"
    ):
        layer(a[:, :300])
    a, layer = made(k=300)
    with pytest.raises(ValueError, match="in_features, 300"):
        layer(np.zeros((1, K), np.float16))
    np.testing.assert_array_equal(layer(a), (a.astype(np.float32) @ weight_of(layer)) + layer.bias)


def test_k_of_none_is_whole_groups() -> None:
    problem = make_problem(1, 64, 256, 64)
    assert Linear(*problem[1:]).in_features == 256
    assert Linear(*problem[1:], k=256).in_features == 256


@pytest.mark.parametrize(
    ("error", "changed", "message"),
    [
        (TypeError, {"bias": np.zeros(N, np.float32)}, "bias is float32"),
        (ValueError, {"bias": np.zeros(N - 1, np.float16)}, "bias is of shape"),
        (TypeError, {"alpha": "1"}, "alpha is of type str"),
        (ValueError, {"activation": "swish"}, "did you mean 'silu'"),
        (TypeError, {"dtype": "bfloat16"}, "dtype is 'bfloat16'"),
        (ValueError, {"group_size": 64}, "group_size"),
        (ValueError, {"k": 129}, "k=129 was given"),
        (ValueError, {"zeros": np.full((3, N), 17, np.uint8)}, "zeros holds 17"),
        (TypeError, {"scales": np.zeros((3, N), np.float32)}, "scales is float32"),
        (TypeError, {"b_packed": None}, "b_packed is None"),
    ],
)
def test_weight_is_checked_when_it_is_made(error: Any, changed: dict[str, Any], message: str) -> None:
    _, layer = made()
    good = {"b_packed": layer.b_packed, "scales": layer.scales, "group_size": 128, "k": K}
    Linear(**good)
    with pytest.raises(error, match=message):
        Linear(**good | changed)


def test_a_is_checked_at_each_call() -> None:
    a, layer = made()
    layer(a)
    with pytest.raises(TypeError, match="a is float32"):
        layer(a.astype(np.float32))
    with pytest.raises(TypeError, match="a is of type list"):
        layer([1.0])
    with pytest.raises(ValueError, match="out is of shape"):
        layer(a, out=np.empty((M, N - 1), np.float32))
    with pytest.raises(ValueError, match="tile_n is 96"):
        layer(a, config=GemmConfig(96))


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


def test_pickled_part_goes_without_the_rest() -> None:
    _, layer = made()
    part = layer.split_columns([64])[0]
    assert len(pickle.dumps(part)) < len(pickle.dumps(layer)) / 2


# ------------------------------------------------------------------------------------ cutting


@pytest.mark.parametrize("zeros", [None, "uint8"])
@pytest.mark.parametrize("parts", [1, [64], [64, 128, 192], np.array([128])])
def test_columns_side_by_side_are_the_whole(zeros: str | None, parts: Any) -> None:
    a, layer = made(zeros, activation="relu")
    cut = layer.split_columns(parts)
    assert sum(part.out_features for part in cut) == N
    np.testing.assert_array_equal(np.hstack([part(a) for part in cut]), layer(a))


@pytest.mark.parametrize("zeros", [None, "float32"])
@pytest.mark.parametrize(("group_size", "parts"), [(32, 3), (128, [128]), (256, [256]), (-1, 3), (-1, [256])])
def test_rows_add_up_to_the_whole(zeros: str | None, group_size: int, parts: Any) -> None:
    a, layer = made(zeros, group_size, alpha=0.5)
    cut = layer.split_rows(parts)
    sizes = [part.in_features for part in cut]
    pieces = np.split(a, np.cumsum(sizes)[:-1], axis=1)
    total = sum(part(piece) for part, piece in zip(cut, pieces, strict=True))
    np.testing.assert_array_equal(total, layer(a))
    assert [part.bias is None for part in cut] == [False] + [True] * (len(cut) - 1)


def test_last_part_keeps_a_k_that_fills_no_block() -> None:
    a, layer = made(k=300)
    cut = layer.split_rows([128, 256])
    assert [part.in_features for part in cut] == [128, 128, 44]
    total = cut[0](a[:, :128]) + cut[1](a[:, 128:256]) + cut[2](a[:, 256:])
    np.testing.assert_array_equal(total, layer(a))


def test_explicit_group_of_all_k_is_shared_too() -> None:
    a, layer = made(group_size=512)  # one row of scales
    left, right = layer.split_rows([128])
    assert (left.group_size, right.group_size) == (-1, -1)
    np.testing.assert_array_equal(left(a[:, :128]) + right(a[:, 128:]), layer(a))


def test_parts_are_views() -> None:
    _, layer = made("uint8")
    for part in (*layer.split_columns([128]), *layer.split_rows(3)):
        assert np.shares_memory(part.b_packed, layer.b_packed)
        assert np.shares_memory(part.scales, layer.scales)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([100], r"a cut at 100 of 200 columns .* multiples of 64; near is 64, 128"),
        ([32], "near is 64"),
        ([199], "near is 192"),
        ([0], "a cut at 0 is outside the weight: it has 200 columns"),
        ([200], "a cut at 200 is outside"),
        ([-64], "a cut at -64 is outside"),
        ([128, 64], "must increase"),
        ([64, 64], "must increase"),
        (3, "parts is 3, but 200 columns don't divide by it: pass the columns to cut at"),
        (2, "a cut at 100"),
        (0, "parts is 0"),
    ],
)
def test_column_cut_that_cannot_be(parts: Any, message: str) -> None:
    _, layer = made()
    with pytest.raises(ValueError, match=message):
        layer.split_columns(parts)


@pytest.mark.parametrize(
    ("group_size", "parts", "message"),
    [
        (32, [96], "a packed block holds 128 rows and a group 32, so cuts lie at multiples of 128"),
        (256, [128], r"a group 256, .* multiples of 256; near is 256"),
        (-1, [64], "a packed block holds 128 rows, so"),
        (128, [384], "a cut at 384 is outside"),
    ],
)
def test_row_cut_that_cannot_be(group_size: int, parts: Any, message: str) -> None:
    _, layer = made(group_size=group_size)
    with pytest.raises(ValueError, match=message):
        layer.split_rows(parts)


def test_parts_that_are_no_integers() -> None:
    _, layer = made()
    for parts in (2.0, [64.0], True, [None]):
        with pytest.raises(TypeError):
            layer.split_columns(parts)


def test_activation_is_not_split_along_k() -> None:
    _, layer = made(activation="gelu")
    with pytest.raises(ValueError, match="activation is 'gelu', which can't be split along k"):
        layer.split_rows(3)


# ------------------------------------------------------------------------------------ launches


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return fake_driver.install(monkeypatch)


def on_a_gpu(n: int = 512, k: int = 1024, **options: Any) -> Linear:
    b_packed = on_gpu((-(-n // 64), k // 128, 1024), "i4", B)
    return Linear(b_packed, on_gpu((k // 128, n), "f2", SCALES), **{"group_size": 128, **options})


def activations(m: int = 3, k: int = 1024, at: int = A, **where: Any) -> Any:
    return on_gpu((m, k), "f2", at, **where)


def result(m: int = 3, n: int = 512, at: int = OUT, **where: Any) -> Any:
    return on_gpu((m, n), "f2", at, **where)


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
    configs = (GemmConfig(128, 16), GemmConfig(128, 32))
    for stream, config in ((1, configs[0]), (2, configs[0]), (1, configs[1]), (1, configs[0])):
        Stream.ptr = stream
        layer(a, out, config)
        assert (driver.last.stream, driver.last.smem_bytes) == (stream, driver.launches[0].smem_bytes) or (
            config is configs[1]
        )
    assert driver.launches[3] == driver.launches[0]
    assert len({(each.stream, each.smem_bytes) for each in driver.launches}) == 3


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


def test_moving_moves_arrays_alone() -> None:
    # A dtype has a shape too.
    a, layer = made(dtype="float32", activation="relu", pdl=False)
    moved = layer._moved(np.copy)
    assert repr(moved) == repr(layer)
    assert not np.shares_memory(moved.b_packed, layer.b_packed)
    np.testing.assert_array_equal(moved(a), layer(a))


def test_pdl_is_a_bool_or_none() -> None:
    _, layer = made()
    for pdl in (1, "0", np.True_):
        with pytest.raises(TypeError, match=r"pdl is .*pass True, False, or None"):
            Linear(layer.b_packed, layer.scales, k=K, pdl=pdl)


@pytest.mark.parametrize("given", [None, False, True])
def test_choice_of_dependent_launch_goes_along_unused_on_numpy(given: bool | None) -> None:
    # On NumPy nothing is launched, but the choice goes along to a GPU.
    a, layer = made(pdl=given)
    again = pickle.loads(pickle.dumps(layer))
    assert (layer.pdl, again.pdl, again._given()["pdl"]) == (False, False, given)
    assert repr(again) == repr(layer)
    assert ("pdl" in repr(layer)) is (given is not None)
    np.testing.assert_array_equal(again(a), layer(a))


def test_parts_are_launched_as_views(driver: FakeDriver) -> None:
    layer = on_a_gpu(bias=on_gpu((512,), "f2", BIAS), zeros=on_gpu((8, 512), "u1", ZEROS))
    right = layer.split_columns(2)[1]
    right(activations(), result(n=256))
    params = driver.last.params
    strides = [params[name] for name in ("n", "b_row_bytes", "scales_stride", "zeros_stride")]
    assert strides == [256, 8 * 4096, 512, 512]
    places = {"b_packed": B, "scales": SCALES, "zeros": ZEROS, "bias": BIAS}
    assert [params[name] - place for name, place in places.items()] == [4 * 8 * 4096, 512, 256, 512]
    lower = layer.split_rows(2)[1]
    lower(activations(k=512), result())
    params = driver.last.params
    assert (params["k"], params["num_groups"], params["b_row_bytes"], params["bias"]) == (
        512,
        4,
        8 * 4096,
        None,
    )
    assert (params["b_packed"] - B, params["scales"] - SCALES) == (4 * 4096, 4 * 1024)


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


# ------------------------------------------------------------------------------------ on a GPU


def real(m: int = 16, **options: Any) -> tuple[Any, Linear]:
    """Activations and a `Linear` (512 -> 512) on the GPU; made on the host, as CuPy compiles slowly."""
    a, *weight, group_size = make_problem(m, 512, 512)
    return cupy.asarray(a), Linear(*map(cupy.asarray, weight[:2]), None, group_size, k=512, **options)


def shifted(a: Any) -> Any:
    """The same values on the GPU, at an address and a row stride that the copy engine does not take."""
    wide = np.zeros((a.shape[0], a.shape[1] + 6), a.dtype)
    wide[:, 3:-3] = cupy.asnumpy(a)
    return cupy.asarray(wide)[:, 3:-3]


FIRST = GemmConfig(64, 128, schedule="pingpong")


def assert_same(c: Any, expected: Any) -> None:
    np.testing.assert_array_equal(cupy.asnumpy(c), cupy.asnumpy(expected))


@pytest.mark.gpu
@pytest.mark.parametrize("pdl", [False, True])
def test_linear_is_gemm_bit_for_bit(pdl: bool) -> None:
    for m in (1, 16, 200):
        a, layer = real(m=m, pdl=pdl)
        expected = gemm(a, layer.b_packed, layer.scales, group_size=128, pdl=pdl)
        assert_same(layer(a), expected)
        out = cupy.empty_like(expected)
        assert layer(a, out=out) is out
        assert_same(out, expected)


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


@pytest.mark.gpu
def test_parts_give_the_bits_of_the_whole() -> None:
    a, layer = real(m=40)
    expected = layer(a, config=FIRST)
    parts = [part(a, config=FIRST) for part in layer.split_columns([64, 320])]
    np.testing.assert_array_equal(np.hstack([cupy.asnumpy(part) for part in parts]), cupy.asnumpy(expected))
    total = sum(
        cupy.asnumpy(part(a[:, i : i + 256], config=FIRST)).astype(np.float32)
        for part, i in zip(layer.split_rows(2), (0, 256), strict=True)
    )
    np.testing.assert_allclose(total, cupy.asnumpy(expected), rtol=2e-3, atol=5e-3)


@pytest.mark.gpu
def test_captured_calls_replay() -> None:
    a, layer = real()
    first, out = layer(a), cupy.empty((16, 512), cupy.float16)
    expected = cupy.asnumpy(layer(first))
    between = cupy.empty_like(out)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        layer(a, out=between)
        layer(between, out=out)
        graph = stream.end_capture()
    for poison in (0, 0xFF):
        for x in (out, between):
            x.data.memset_async(poison, x.nbytes, stream)
        graph.launch(stream)
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(cupy.asnumpy(out), expected)
    a.data.memset_async(0, a.nbytes, stream)  # replays read what stands there then
    graph.launch(stream)
    stream.synchronize()
    assert not cupy.asnumpy(out).any()


@pytest.mark.gpu
def test_capture_of_a_kernel_never_loaded_asks_for_a_warm_up() -> None:
    a, layer = real(activation="gelu_tanh")
    stream = cupy.cuda.Stream(non_blocking=True)
    out = cupy.empty((16, 512), cupy.float16)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(W4A16Error, match="warm up before the capture"):
                layer(a, out=out, config=GemmConfig(128, 16, stages=2))  # that no other test runs
        finally:
            stream.end_capture()


@pytest.mark.gpu
def test_copy_inside_a_capture_wants_a_workspace() -> None:
    a, layer = real(pdl=False)  # as gemm: the same config
    expected = cupy.asnumpy(layer(a))
    odd, out = shifted(a), cupy.empty((16, 512), cupy.float16)
    weight = (layer.b_packed, layer.scales, None, 128)
    workspace = cupy.empty(workspace_bytes(GemmProblem(16, 512, 512)), cupy.uint8)
    np.testing.assert_array_equal(cupy.asnumpy(gemm(odd, *weight, workspace=workspace)), expected)
    np.testing.assert_array_equal(cupy.asnumpy(layer(odd)), expected)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        with pytest.raises(W4A16Error, match="pass an aligned a, or workspace="):
            gemm(odd, *weight, out=out)
        gemm(odd, *weight, out=out, workspace=workspace)
        graph = stream.end_capture()
    out.data.memset_async(0xFF, out.nbytes, stream)
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(cupy.asnumpy(out), expected)


@pytest.mark.gpu
def test_streams_at_once_do_not_meet() -> None:
    a, layer = real(m=64)
    odd = shifted(a)  # copied at each call
    expected = cupy.asnumpy(layer(odd))
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    results = []
    for _ in range(20):
        for stream in streams:
            with stream:
                results += [layer(a), layer(odd)]
    for stream in streams:
        stream.synchronize()
    for c in results:
        np.testing.assert_array_equal(cupy.asnumpy(c), expected)


@pytest.mark.gpu
def test_threads_at_once_do_not_meet() -> None:
    a, layer = real(m=64)
    expected = {m: cupy.asnumpy(layer(a[:m])) for m in (1, 5, 64)}
    cupy.cuda.Device().synchronize()
    failed: list[Any] = []

    def call(out: Any, stream: Any) -> None:
        try:  # the launch is the first this thread asks of CUDA: it has no context yet
            with stream:
                for i in range(60):
                    m = (1, 5, 64)[i % 3]
                    c = layer(a[:m], out=out[:m])
                    stream.synchronize()
                    np.testing.assert_array_equal(cupy.asnumpy(c), expected[m])
        except BaseException as error:
            failed.append(error)

    outs = [cupy.empty((64, 512), cupy.float16) for _ in range(2)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    threads = [threading.Thread(target=call, args=pair) for pair in zip(outs, streams, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
