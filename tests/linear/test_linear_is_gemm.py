"""A call of a `Linear` is that of `gemm` with the same weight."""

from __future__ import annotations

import cupy
import numpy as np
import pytest
from helpers.linears import K, M, N, assert_same, made, real

from cupy_w4a16 import GemmConfig, gemm


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
