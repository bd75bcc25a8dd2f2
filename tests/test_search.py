"""Methods "mse" and "hqq": what they minimise, recomputed in float64, never gets worse, and gets better."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import _quantize, gemm
from cupy_w4a16._group_sums import P
from cupy_w4a16._pack import unpack
from cupy_w4a16._quantize import QuantizedWeight, dequantize, quantize

BFLOAT16 = ml_dtypes.bfloat16
#: (method, symmetric) of everything that searches.
SEARCHES = [("mse", True), ("mse", False), ("hqq", False)]


def heavy_tailed(k: int, n: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Like a model's weights: small, with a few far out."""
    return (0.03 * np.random.default_rng(seed).standard_t(5, (k, n))).astype(dtype)


def group_errors(weight: QuantizedWeight, w: np.ndarray, power: float) -> np.ndarray:
    """sum |(q - zero) * scale - w|^power of each group and column, in float64."""
    k, n = w.shape
    size = k if weight.group_size == -1 else weight.group_size
    group = np.arange(k) // size
    zero = np.full(weight.scales.shape, 8.0) if weight.zeros is None else weight.zeros.astype(np.float64)
    q = unpack(weight.b_packed, k, n).astype(np.float64)
    error = abs((q - zero[group]) * weight.scales.astype(np.float64)[group] - w.astype(np.float64)) ** power
    return np.add.reduceat(error, np.arange(0, k, size), axis=0)


@settings(deadline=None, max_examples=60)
@given(
    k=st.integers(1, 300), n=st.integers(1, 70), group_size=st.sampled_from([32, 128, -1]),
    symmetric=st.booleans(), dtype=st.sampled_from([np.float16, BFLOAT16, np.float32]),
    magnitude=st.sampled_from([1e-30, 1e-6, 1.0, 1e4, 1e30]), seed=st.integers(0, 99),
)  # fmt: skip
def test_squared_error_of_no_group_exceeds_that_of_round_to_nearest(
    k: int, n: int, group_size: int, symmetric: bool, dtype: Any, magnitude: float, seed: int
) -> None:
    # Ragged last groups, single rows, and magnitudes whose squares leave float32 on either side.
    if dtype is np.float16:
        magnitude = min(max(magnitude, 1e-6), 1e4)
    scales = np.float16 if dtype is np.float16 else BFLOAT16
    w = (magnitude * heavy_tailed(k, n, np.float64, seed)).astype(dtype)
    nearest, searched = (
        quantize(w, group_size, symmetric=symmetric, dtype=scales, method=method) for method in ("rtn", "mse")
    )
    assert (group_errors(searched, w, 2) <= group_errors(nearest, w, 2)).all()


@pytest.mark.parametrize("group_size", [32, 128, -1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_squared_error_falls_in_most_groups(symmetric: bool, group_size: int) -> None:
    w = heavy_tailed(512, 128)
    nearest, searched = (
        group_errors(quantize(w, group_size, symmetric=symmetric, method=method), w, 2)
        for method in ("rtn", "mse")
    )
    assert (searched < nearest).mean() > 0.7
    assert searched.sum() < 0.95 * nearest.sum()


@pytest.mark.parametrize(("symmetric", "percent"), [(True, 9.7), (False, 9.5)])
def test_error_on_gaussian_weights_is_the_documented_one(symmetric: bool, percent: float) -> None:
    w = np.random.default_rng(0).standard_normal((1024, 512), np.float32)
    error = group_errors(quantize(w, 128, symmetric=symmetric, method="mse"), w, 2)
    assert 100 * np.sqrt(error.sum() / (w.astype(np.float64) ** 2).sum()) == pytest.approx(percent, abs=0.05)


def test_sign_of_the_scale_is_searched() -> None:
    # The extreme, 8.5, asks for codes -7 to 8; the forty weights of -8 are worth more than it.
    w = np.concatenate([[8.5], np.full(40, -8.0), np.arange(-8, 8)])[:, None]
    nearest, searched = (quantize(w, -1, method=method) for method in ("rtn", "mse"))
    assert nearest.scales[0, 0] < 0
    assert searched.scales[0, 0] > 0


@pytest.mark.parametrize("turned", [False, True])
def test_zeros_beside_the_nearest_are_searched(turned: bool) -> None:
    # The lowest, -1.5, asks for zero 1 and steps up to 14; ten each of 0 to 15 are worth more than it.
    w = np.concatenate([[-1.5], np.repeat(np.arange(16.0), 10)])[:, None]
    nearest, searched = (
        quantize(-w if turned else w, -1, symmetric=False, method=method) for method in ("rtn", "mse")
    )
    assert nearest.zeros[0, 0] == (14 if turned else 1)
    assert searched.zeros[0, 0] == (15 if turned else 0)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
@pytest.mark.parametrize("group_size", [32, 128, -1])
def test_hqq_lowers_the_norm_it_minimises(dtype: Any, group_size: int) -> None:
    w = heavy_tailed(500, 128)
    nearest, searched = (
        group_errors(quantize(w, group_size, symmetric=False, dtype=dtype, method=method), w, P)
        for method in ("rtn", "hqq")
    )
    assert (searched <= nearest).all()
    assert (searched < nearest).mean() > 0.7
    assert searched.sum() < 0.99 * nearest.sum()


def test_hqq_zeros_are_floats_that_gemm_takes() -> None:
    w = heavy_tailed(256, 64, np.float16)
    weight = quantize(w, 64, symmetric=False, method="hqq")
    assert weight.zeros.dtype == weight.scales.dtype == np.float16
    assert (weight.zeros != np.rint(weight.zeros)).any()
    np.testing.assert_array_equal(gemm(np.eye(256, dtype=np.float16), *weight), dequantize(*weight))


def test_hqq_codes_are_nearest_to_the_rounded_zero() -> None:
    w = heavy_tailed(128, 32)
    weight = quantize(w, 64, symmetric=False, dtype=BFLOAT16, method="hqq")
    scale, zero = (np.repeat(x.astype(np.float64), 64, axis=0) for x in (weight.scales, weight.zeros))
    off = abs(unpack(weight.b_packed, 128, 32) - np.clip(w / scale + zero, 0, 15))
    assert off.max() <= 0.5 + 2.0**-20  # w / scale + zero in float32, at most 16


def test_hqq_is_refused_for_symmetric_weights() -> None:
    with pytest.raises(ValueError) as caught:
        quantize(heavy_tailed(64, 2), method="hqq")
    assert "symmetric=False" in str(caught.value)


@pytest.mark.parametrize(("method", "symmetric"), SEARCHES)
def test_zero_and_constant_groups_come_back(method: str, symmetric: bool) -> None:
    w = heavy_tailed(96, 4)
    w[:, 1], w[32:64, 2], w[:, 3] = 0, 0, 0.5
    weight = quantize(w, 32, symmetric=symmetric, method=method)
    back = dequantize(*weight, dtype="float32")
    assert (weight.scales[:, 1] == 1).all()
    assert (back[:, 1] == 0).all()
    assert (back[32:64, 2] == 0).all()
    np.testing.assert_allclose(back[:, 3], 0.5, rtol=2.0**-10)  # a code times a float16 scale


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("method", "symmetric"), SEARCHES)
def test_nan_and_infinity_are_refused_by_column(method: str, symmetric: bool, bad: float) -> None:
    w = heavy_tailed(100, 200)
    w[99, 130] = bad
    with pytest.raises(ValueError) as caught:
        quantize(w, 64, symmetric=symmetric, method=method)
    assert "column 130" in str(caught.value)


@pytest.mark.parametrize(("method", "symmetric"), SEARCHES)
@pytest.mark.parametrize(
    ("largest", "dtype"), [(65504 * 7.99, np.float16), (3.38e38, BFLOAT16), (1e-40, BFLOAT16)]
)
def test_searches_stay_within_the_scales_dtype_and_warn_of_nothing(
    method: str, symmetric: bool, largest: float, dtype: Any, recwarn: pytest.WarningsRecorder
) -> None:
    w = np.float32(largest) * np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    scales = quantize(w, 32, symmetric=symmetric, dtype=dtype, method=method).scales.astype(np.float32)
    assert np.isfinite(scales).all()
    assert (scales != 0).all()
    assert not recwarn.list


@pytest.mark.parametrize(("method", "symmetric"), SEARCHES)
def test_strips_of_columns_change_no_bit(
    method: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = heavy_tailed(200, 300)
    first, second = (quantize(w, 64, symmetric=symmetric, method=method) for _ in range(2))
    monkeypatch.setitem(_quantize.STRIP_WEIGHTS, "numpy", 200 * 64)
    in_strips = quantize(np.ascontiguousarray(w.T).T, 64, symmetric=symmetric, method=method)
    for one, two, three in zip(first[:3], second[:3], in_strips[:3], strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.gpu
@pytest.mark.parametrize(("method", "symmetric"), SEARCHES)
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_cupy_searches_as_well_as_numpy(method: str, symmetric: bool, dtype: Any) -> None:
    import cupy

    w = heavy_tailed(1000, 200, dtype)
    power = P if method == "hqq" else 2
    on_gpu = quantize(cupy.asarray(w), 128, symmetric=symmetric, method=method)
    on_host = [None if x is None else cupy.asnumpy(x) for x in on_gpu[:3]]
    found = group_errors(QuantizedWeight(*on_host, 128), w, power)
    nearest = group_errors(quantize(w, 128, symmetric=symmetric), w, power)
    expected = group_errors(quantize(w, 128, symmetric=symmetric, method=method), w, power)
    assert (found <= nearest).all()
    # Sums in another order may choose another of two that are all but equal.
    assert found.sum() == pytest.approx(expected.sum(), rel=2e-3)
