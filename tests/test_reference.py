"""The NumPy gemm: the numbers of the contract, on any machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cupy_w4a16 import _reference
from cupy_w4a16._activations import ACTIVATIONS, apply_activation
from cupy_w4a16._pack import pack
from cupy_w4a16._quantize import dequantize
from cupy_w4a16._reference import gemm_numpy
from cupy_w4a16.testing import assert_gemm_close, make_problem

BFLOAT16 = ml_dtypes.bfloat16

# From the definitions, one number at a time; math.erfc keeps the tails that 1 + erf would lose.
SCALAR: dict[str | None, Callable[[float], float]] = {
    None: lambda x: x,
    "gelu": lambda x: x * math.erfc(-x / math.sqrt(2)) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)) if x > -700 else 0.0,
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_right_to_float32_in_its_tails_too(activation: str) -> None:
    atol = 1e-14 if activation == "gelu_tanh" else 1e-70  # 1 + tanh, here, loses what lies below
    x = np.concatenate([np.linspace(-30, 30, 4001), [0.0, 1e-30, -1e-30, 1e30, -1e30, -18.3, -18.5]])
    expected = np.array([SCALAR[activation](v) for v in x])
    np.testing.assert_allclose(apply_activation(np, x, activation), expected, rtol=2e-9, atol=atol)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_keeps_nan_and_infinity(activation: str) -> None:
    y = apply_activation(np, np.array([np.nan, np.inf]), activation)
    assert np.isnan(y[0])
    assert y[1] == np.inf


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("zeros", [None, "integer", "float"])
@pytest.mark.parametrize("group_size", [32, 128, -1])
def test_identity_activations_give_the_dequantized_weights_bit_for_bit(
    dtype: str, zeros: str | None, group_size: int
) -> None:
    k = 150
    _, *weight = make_problem(0, 70, k, group_size, dtype=dtype, zeros=zeros)
    w = dequantize(*weight, k=k)
    c = gemm_numpy(np.eye(k, dtype=w.dtype), *weight, None, 1.0, None, w.dtype)
    assert c.dtype == w.dtype
    np.testing.assert_array_equal(c.view(np.uint16), w.view(np.uint16))


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("out_dtype", [np.float16, np.float32])
def test_options_apply_in_the_documented_order(activation: str | None, out_dtype: Any) -> None:
    a, *weight = make_problem(3, 5, 40, 32)
    bias = np.linspace(-2, 2, 5).astype(np.float16)
    c = gemm_numpy(a, *weight, bias, -1.75, activation, out_dtype)
    w = dequantize(*weight, k=40).astype(float)
    for i in range(3):
        for j in range(5):
            x = -1.75 * math.fsum(a[i].astype(float) * w[:, j]) + float(bias[j])
            exact = SCALAR[activation](x)
            # float32: 40 sums of products of size 1 and two more operations; then one rounding.
            assert abs(float(c[i, j]) - exact) <= 50 * 2.0**-24 * 8 + np.finfo(out_dtype).eps / 2 * abs(exact)


def test_leading_dimensions_and_strides_of_a_are_those_of_matmul() -> None:
    a, *weight = make_problem(24, 70, 100, 64)
    rest = (None, 1.0, None, np.float16)
    c = gemm_numpy(a, *weight, *rest)
    np.testing.assert_array_equal(gemm_numpy(a.reshape(2, 3, 4, 100), *weight, *rest), c.reshape(2, 3, 4, 70))
    assert gemm_numpy(a[5], *weight, *rest).shape == (70,)
    np.testing.assert_array_equal(gemm_numpy(np.asfortranarray(a), *weight, *rest), c)
    np.testing.assert_array_equal(gemm_numpy(np.repeat(a, 2, 1)[:, ::2], *weight, *rest), c)


def test_empty_sizes() -> None:
    for m, n, k in [(0, 5, 40), (3, 0, 40), (0, 0, 0)]:
        a, *weight = make_problem(m, n, k, 32)
        assert gemm_numpy(a, *weight, None, 1.0, None, np.float16).shape == (m, n)


def test_no_k_leaves_the_bias() -> None:
    a, *weight = make_problem(2, 3, 0, 32)
    bias = np.array([1, -2, 3], np.float16)
    np.testing.assert_array_equal(gemm_numpy(a, *weight, bias, 2.0, "relu", np.float16), [[1, 0, 3]] * 2)
    np.testing.assert_array_equal(gemm_numpy(a, *weight, None, 2.0, None, np.float16), np.zeros((2, 3)))


def test_strips_of_columns_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    a, *weight = make_problem(4, 300, 200, 64, zeros="integer")
    rest = (np.arange(300).astype(np.float16), 1.0, "relu", np.float32)
    whole = gemm_numpy(a, *weight, *rest)
    monkeypatch.setattr(_reference, "_STRIP_NUMBERS", 1)
    # Each strip is a product of its own, which BLAS may sum in another order.
    np.testing.assert_allclose(gemm_numpy(a, *weight, *rest), whole, rtol=1e-6, atol=1e-5)


def test_overflow_is_infinite_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    b_packed, scales = pack(np.full((32, 2), 15, np.uint8)), np.full((1, 2), 4096, np.float16)
    a = np.full((1, 32), 2048, np.float16)
    c = gemm_numpy(a, b_packed, scales, None, 32, None, 1.0, None, np.dtype(np.float16))
    assert np.isposinf(c).all()
    c = gemm_numpy(a, b_packed, scales, None, 32, None, 1.0, None, np.dtype(np.float32))
    assert (c == 32 * 2048 * 7 * 4096).all()
    assert not recwarn.list


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
@pytest.mark.parametrize("zero", [None, 7.5, 16, np.inf, np.nan])
@pytest.mark.parametrize("scale", [np.inf, np.nan, "signalling", "largest"])
def test_scales_that_make_no_finite_weights_give_no_warning(
    scale: Any, zero: float | None, dtype: Any, recwarn: pytest.WarningsRecorder
) -> None:
    if scale == "largest":
        scale = ml_dtypes.finfo(dtype).max
    scales = np.full((2, 70), np.inf if scale == "signalling" else scale, dtype)
    if scale == "signalling":
        scales.view(np.uint16)[...] += 1  # the NaN that is next to infinity
    zeros = None if zero is None else np.full((2, 70), zero, np.float32)
    b_packed = pack(np.arange(64 * 70, dtype=np.uint8).reshape(64, 70) % 16)
    w = dequantize(b_packed, scales, zeros, 32)
    c = gemm_numpy(np.eye(64, dtype=dtype), b_packed, scales, zeros, 32, None, 1.0, None, np.dtype(dtype))
    assert not np.isfinite(w.astype(np.float32)).all()
    assert not np.isfinite(c.astype(np.float32)).all()
    assert_gemm_close(c, np.eye(64, dtype=dtype), b_packed, scales, zeros, 32)
    assert not recwarn.list


def test_nan_of_one_row_stays_in_its_row() -> None:
    a, *weight = make_problem(3, 70, 100, 32)
    a[1, 99] = np.nan
    c = gemm_numpy(a, *weight, None, 1.0, "gelu", np.float16)
    assert np.isnan(c[1]).all()
    assert np.isfinite(c[[0, 2]]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("zeros", [None, "integer", "float"])
def test_random_problems_lie_within_the_derived_bounds(dtype: str, zeros: str | None) -> None:
    rng = np.random.default_rng(5)
    for seed in range(12):
        m, n, k = (int(x) for x in rng.integers(1, 260, 3))
        group_size = int(rng.choice([32, 64, 128, -1]))
        problem = make_problem(m, n, k, group_size, dtype=dtype, zeros=zeros, seed=seed)
        out_dtype = problem.a.dtype if seed % 2 else np.dtype(np.float32)
        activation = [None, *ACTIVATIONS][seed % 5]
        bias = rng.standard_normal(n).astype(np.float32).astype(problem.a.dtype) if seed % 3 else None
        alpha = float(rng.uniform(-3, 3))
        c = gemm_numpy(*problem, bias, alpha, activation, out_dtype)
        assert_gemm_close(c, *problem, bias=bias, alpha=alpha, activation=activation)
