"""`awq_scale`: never worse than `quantize` on what it is given, better where channels differ, and strict."""

from __future__ import annotations

import sys
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest
from cupy_backends.cuda import libs
from helpers.memory import temporary_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import _awq_scale, _quantize, awq_scale, dequantize, gemm, quantize
from cupy_w4a16._awq_scale import ScaledWeight
from cupy_w4a16._cublas import require_cublas

BFLOAT16 = ml_dtypes.bfloat16


def weights(k: int, n: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return (0.03 * np.random.default_rng(seed).standard_t(5, (k, n))).astype(dtype)


def activations(m: int, k: int, dtype: Any = np.float16, seed: int = 1, spread: float = 1.0) -> np.ndarray:
    """Channels of very different size, the same channels for every seed, as in a model."""
    sizes = np.exp(spread * np.random.default_rng(9).standard_normal(k))
    return (sizes * np.random.default_rng(seed).standard_normal((m, k))).astype(dtype)


def weight_errors(w: np.ndarray, found: ScaledWeight) -> np.ndarray:
    """What stands in for w, less w, in float64."""
    back = dequantize(*found.weight, k=len(w), dtype="float32").astype(np.float64)
    return back / found.scale.astype(np.float64)[:, None] - w.astype(np.float64)


def plainly(w: np.ndarray, like: ScaledWeight, method: str = "rtn") -> ScaledWeight:
    """`quantize`, with a scale of ones."""
    symmetric, dtype = like.weight.zeros is None, like.scale.dtype
    plain = quantize(w, like.weight.group_size, symmetric=symmetric, dtype=dtype, method=method)
    return ScaledWeight(plain, np.ones_like(like.scale))


def output_error(w: np.ndarray, a: np.ndarray, found: ScaledWeight) -> float:
    return float(np.linalg.norm(a.astype(np.float64) @ weight_errors(w, found)))


@settings(deadline=None, max_examples=40)
@given(
    k=st.integers(1, 200), n=st.integers(1, 70), m=st.integers(1, 40),
    group_size=st.sampled_from([32, 128, -1]), symmetric=st.booleans(),
    dtype=st.sampled_from([np.float16, BFLOAT16, np.float32]), method=st.sampled_from(["rtn", "mse"]),
    spread=st.sampled_from([0.0, 1.0, 2.5]), seed=st.integers(0, 99),
)  # fmt: skip
def test_error_on_the_given_activations_never_exceeds_that_of_quantize(
    k: int,
    n: int,
    m: int,
    group_size: int,
    symmetric: bool,
    dtype: Any,
    method: str,
    spread: float,
    seed: int,
) -> None:
    w, a = weights(k, n, np.float32, seed), activations(m, k, dtype, seed, spread)
    found = awq_scale(w, a, group_size, symmetric=symmetric, method=method, steps=5)
    plain = plainly(w, found, method)
    # The search compares float32 sums of k products of float32 numbers, which are this much off at most.
    a64, w64 = abs(a.astype(np.float64)), abs(w.astype(np.float64))
    off = [np.linalg.norm(a64 @ (abs(weight_errors(w, x)) + w64)) for x in (found, plain)]
    bound = (k + 8) * 2.0**-24 * sum(off)
    assert output_error(w, a, found) <= output_error(w, a, plain) + bound


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_other_activations_of_the_same_channels_gain_too(method: str, symmetric: bool) -> None:
    w, a, other = weights(256, 128), activations(100, 256), activations(100, 256, seed=2)
    found = awq_scale(w, a, symmetric=symmetric, method=method)
    assert output_error(w, other, found) < 0.9 * output_error(w, other, plainly(w, found, method))


def test_loud_channel_gets_finer_steps() -> None:
    w, a = weights(128, 64), activations(50, 128, spread=0.0)
    a[:, 7] *= 50
    found = awq_scale(w, a)
    assert found.scale.argmax() == 7
    before, after = (np.square(weight_errors(w, x)[7]).mean() for x in (plainly(w, found), found))
    assert after < before / 4


@pytest.mark.parametrize("steps", [2, 4])
def test_scale_is_the_documented_one(steps: int) -> None:
    w, a = weights(160, 64), activations(60, 160)
    a[:, 3] = 0
    found = awq_scale(w, a, 32, steps=steps)
    mean = abs(a.astype(np.float64)).mean(axis=0)
    mean = np.maximum(mean, mean.max() / 1024)
    allowed = [(mean / np.sqrt(mean.min() * mean.max())) ** (i / steps) for i in range(steps)]
    # Rounded to float16 once, after a float32 power.
    off = [abs(found.scale / scale - 1).max() for scale in allowed]
    assert min(off) <= 2.0**-11 * 1.01
    errors = []
    for scale in allowed:
        half = scale.astype(np.float16)
        scaled = quantize(half.astype(np.float32)[:, None] * w, 32)
        errors.append(output_error(w, a, ScaledWeight(scaled, half)))
    assert np.argmin(errors) == np.argmin(off)
    assert np.argmin(errors) != 0


def test_weight_is_that_of_the_rounded_scale() -> None:
    # Were w scaled by float32 numbers and a by their float16 neighbours, every product would be off by 2^-12.
    w = weights(128, 64)
    found = awq_scale(w, activations(50, 128))
    expected = quantize(found.scale.astype(np.float32)[:, None] * w)
    for one, two in zip(found.weight, expected, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("silent", [slice(None), slice(5, 9)])
def test_silent_channels_keep_finite_scales(silent: slice, recwarn: pytest.WarningsRecorder) -> None:
    w, a = weights(128, 64), activations(50, 128)
    a[:, silent] = 0
    found = awq_scale(w, a)
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()
    assert np.isfinite(weight_errors(w, found)).all()
    assert not recwarn.list
    if silent == slice(None):  # nothing is known: plain quantize
        assert (found.scale == 1).all()
        np.testing.assert_array_equal(found.weight.b_packed, quantize(w, dtype="float16").b_packed)


def test_scale_that_dtype_cannot_hold_is_passed_over() -> None:
    # float16 scales reach 8 * 65504; a loud channel's weight scaled up does not fit, as it is it does.
    w, a = weights(128, 64), activations(50, 128)
    w[7, 3] = 7.9 * 65504
    a[:, 7] = 1000
    found = awq_scale(w, a)
    assert np.isfinite(found.weight.scales).all()
    w[7, 3] = 8.1 * 65504
    with pytest.raises(ValueError) as caught:
        awq_scale(w, a)
    assert "column 3" in str(caught.value)


@pytest.mark.parametrize(
    ("w_dtype", "a_dtype", "asked", "expected"),
    [
        (np.float32, np.float32, None, np.float16),
        (BFLOAT16, np.float32, None, BFLOAT16),
        (np.float16, BFLOAT16, None, BFLOAT16),
        (np.float64, np.float16, None, np.float16),
        (np.float16, np.float16, "bfloat16", BFLOAT16),
    ],
)
def test_scale_and_scales_have_the_dtype_that_gemm_needs(
    w_dtype: Any, a_dtype: Any, asked: Any, expected: Any
) -> None:
    weight, scale = awq_scale(weights(128, 64, w_dtype), activations(9, 128, a_dtype), dtype=asked)
    assert weight.scales.dtype == scale.dtype == expected
    a = activations(3, 128, expected)
    assert gemm(a / scale, *weight).dtype == expected


def test_chunks_and_strides_and_leading_axes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    w, a = weights(200, 300), activations(60, 200)
    expected = awq_scale(w, a, 64, steps=4)
    monkeypatch.setitem(_quantize.STRIP_WEIGHTS, "numpy", 200 * 64)
    monkeypatch.setitem(_awq_scale._CHUNK_NUMBERS, "numpy", 200 * 7)
    found = awq_scale(np.ascontiguousarray(w.T).T, np.asfortranarray(a).reshape(3, 20, 200), 64, steps=4)
    np.testing.assert_array_equal(found.scale, expected.scale)
    np.testing.assert_array_equal(found.weight.b_packed, expected.weight.b_packed)


def test_inputs_are_not_written() -> None:
    w, a = weights(128, 64), activations(9, 128, np.float32)
    kept = w.copy(), a.copy()
    awq_scale(w, a, steps=3)
    np.testing.assert_array_equal(w, kept[0])
    np.testing.assert_array_equal(a, kept[1])


def test_gemm_refuses_a_weight_whose_scale_is_forgotten() -> None:
    a = activations(9, 128)
    found = awq_scale(weights(128, 64), a, steps=2)
    with pytest.raises(TypeError):
        gemm(a, *found)
    with pytest.raises(TypeError):
        gemm(a, found, found.weight.scales)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused_by_channel(bad: float) -> None:
    a = activations(50, 128)
    a[30, 77] = bad
    with pytest.raises(ValueError) as caught:
        awq_scale(weights(128, 64), a)
    assert "channel 77" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"a": activations(9, 64)}, ValueError, "k = 128"),
        ({"a": np.float16(1)}, TypeError, "a is"),
        ({"a": np.zeros((), np.float16)}, ValueError, "k = 128"),
        ({"a": activations(0, 128)}, ValueError, "no activations"),
        ({"a": np.ones((9, 128), np.int8)}, TypeError, "int8"),
        ({"a": np.ones((9, 128))}, TypeError, "float64"),
        ({"w": weights(128, 64).ravel()}, ValueError, "two dimensions"),
        ({"w": np.full((128, 64), np.nan)}, ValueError, "NaN"),
        ({"group_size": 100}, ValueError, "100"),
        ({"method": "gptq"}, ValueError, "'gptq'"),
        ({"method": "hqq"}, ValueError, "symmetric=False"),
        ({"dtype": "float32"}, TypeError, "float32"),
        ({"steps": 0}, ValueError, "steps is 0"),
        ({"steps": 2.5}, TypeError, "steps is 2.5"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], error: type[Exception], said: str) -> None:
    arguments: dict[str, Any] = {"w": weights(128, 64), "a": activations(9, 128)} | change
    with pytest.raises(error) as caught:
        awq_scale(**arguments)
    assert said in str(caught.value)


def test_missing_cublas_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in (cupy.cuda, libs):  # both load it when it is asked for
        monkeypatch.delitem(vars(package), "cublas", raising=False)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", None)
    with pytest.raises(ImportError) as caught:
        require_cublas("awq_scale")
    assert "awq_scale needs" in str(caught.value)
    assert "pip install nvidia-cublas" in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_cupy_scales_as_well_as_numpy(dtype: Any, symmetric: bool) -> None:
    w, a = weights(600, 200, dtype), activations(90, 600, dtype)
    expected = awq_scale(w, a, symmetric=symmetric, steps=5)
    weight, scale = awq_scale(cupy.asarray(w), cupy.asarray(a), symmetric=symmetric, steps=5)
    on_host = [None if x is None else cupy.asnumpy(x) for x in weight[:3]]
    found = ScaledWeight(_quantize.QuantizedWeight(*on_host, 128), cupy.asnumpy(scale))
    # The steps lie far apart: both take the same, and powers differ by some 2^-22 before they are rounded.
    spacing = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(
        found.scale.astype(np.float32), expected.scale.astype(np.float32), rtol=spacing
    )
    assert output_error(w, a, found) == pytest.approx(output_error(w, a, expected), rel=2e-3)


@pytest.mark.parametrize("xp", [np, pytest.param(cupy, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("method", ["rtn", "mse", "hqq", "awq"])
def test_temporary_memory_grows_with_neither_weight_nor_activations(
    method: str, xp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_quantize.STRIP_WEIGHTS, xp.__name__, 1 << 16)
    monkeypatch.setitem(_awq_scale._CHUNK_NUMBERS, xp.__name__, 1 << 16)
    taken = []
    for size in (1, 4):
        w, a = (xp.asarray(x) for x in (weights(256, 512 * size), activations(512 * size, 256)))

        def call(w: Any = w, a: Any = a) -> list[Any]:
            if method == "awq":
                weight, scale = awq_scale(w, a, symmetric=False, steps=2)
                return [*weight[:3], scale]
            return list(quantize(w, symmetric=False, method=method)[:3])

        taken.append(temporary_bytes(xp, call))
    # Results of the first may lie in what was temporary; beside that, room for the allocator: the GPU's pool
    # may lack a piece for one array of a strip. (One that grew with the weight would take 1.5 MB more.)
    first_results = 256 * 512 // 2 + 2 * 512 * (2 + 2) + 2 * 256
    room = (1 << 14) + (4 * (1 << 16) if xp is cupy else 0)
    assert taken[1] <= taken[0] + first_results + room
