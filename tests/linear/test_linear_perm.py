"""`Linear(perm=)`: act-order weights; each activation meets its own row, wherever the weight goes."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.whole_numbers import whole_numbers

from cupy_w4a16 import GemmConfig, Linear, dequantize, from_gptq, load, save
from cupy_w4a16.testing import make_problem

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
M, N, K = 5, 200, 300


def made(k: int = K, dtype: Any = np.float16, **options: Any) -> tuple[Any, Any, Linear]:
    """Activations, the weight in its own order (k, n), and its Linear; whole numbers, so that sums agree."""
    perm = np.random.default_rng(2).permutation(k)
    options = {"bias": None, "dtype": "float32", **options}
    a, layer = whole_numbers(N, k, 32, m=M, half=dtype, perm=perm, **options)
    w = np.empty((k, N), np.float32)
    w[perm] = dequantize(layer.b_packed, layer.scales, None, 32, k=k, dtype="float32")
    return a, w, layer


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_each_activation_meets_its_own_row(dtype: Any) -> None:
    a, w, layer = made(dtype=dtype, bias=np.ones(N, dtype), alpha=0.5, activation="relu")
    expected = np.maximum(0.5 * (a.astype(np.float32) @ w) + 1, 0)
    np.testing.assert_array_equal(layer(a), expected)
    out = np.empty((M, N), np.float32)
    assert layer(a, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert layer(a.copy(order="F")[:, None, :], config=GemmConfig(64, 16)).shape == (M, 1, N)
    np.testing.assert_array_equal(layer(a[0]), expected[0])
    assert layer(a[:0]).shape == (0, N)


def test_act_order_checkpoint_is_multiplied_by_its_definition() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(-(2**31), 2**31, (K // 8 * 8 // 8, 64)).astype(np.int32)  # 296 rows
    scales = rng.choice([1, 2, 4], (10, 64)).astype(np.float16)
    g_idx = rng.permutation(np.arange(296) // 32).astype(np.int32)
    weight, perm = from_gptq(words, None, scales, g_idx, group_size=32)
    layer = Linear(*weight, perm=perm)
    assert layer.in_features == 296
    codes = words.view(np.uint32)[:, None] >> (4 * np.arange(8, dtype=np.uint32))[None, :, None] & 15
    w = (codes.reshape(296, 64).astype(np.float32) - 8) * scales[g_idx].astype(np.float32)
    np.testing.assert_array_equal(layer(np.eye(296, dtype=np.float16)), w)


def test_k_of_none_is_the_length_of_perm() -> None:
    problem = make_problem(1, 64, 200, 64)
    assert Linear(*problem[1:]).in_features == 256
    assert Linear(*problem[1:], perm=np.arange(200)).in_features == 200


@pytest.mark.parametrize(
    ("error", "perm", "message"),
    [
        (TypeError, np.arange(K) * 1.0, "perm is float64: it must be integers"),
        (TypeError, np.zeros(K, bool), "perm is bool"),
        (TypeError, list(range(K)), "perm is of type list"),
        (ValueError, np.arange(K - 1), r"perm is of shape \(299,\), but the weight has k = 300"),
        (ValueError, np.arange(K)[None], r"perm is of shape \(1, 300\)"),
        (ValueError, np.arange(K) + 1, "perm holds 300: it must hold each of 0 to 299 once"),
        (ValueError, np.arange(K) - 1, "perm holds -1: "),
        (ValueError, np.full(K, 2**64 - 1, np.uint64), "perm holds 18446744073709551615"),
        (ValueError, np.r_[0, np.arange(K - 1)], "perm holds 0 2 times"),
    ],
)
def test_what_is_no_permutation_of_k_is_refused(error: Any, perm: Any, message: str) -> None:
    _, _, layer = made()
    with pytest.raises(error, match=message):
        Linear(layer.b_packed, layer.scales, None, 32, k=K, perm=perm)


def test_perm_that_fits_no_k_is_refused_where_k_is_not_given() -> None:
    problem = make_problem(1, 64, 256, 64)
    with pytest.raises(ValueError, match=r"perm is of shape \(100,\), but the weight has k = 256"):
        Linear(*problem[1:], perm=np.arange(100))


def test_bad_calls_are_those_without_perm() -> None:
    a, _, layer = made()
    for error, bad_a, out, message in (
        (ValueError, a[:, :-1], None, "in_features, 300"),
        (TypeError, a.astype(np.float32), None, "a is float32"),
        (ValueError, a, np.empty((M, N - 1), np.float32), "out is of shape"),
        (TypeError, a, np.empty((M, N), np.float16), "out is float16"),
    ):
        with pytest.raises(error, match=message):
            layer(bad_a, out)
    with pytest.raises(ValueError, match="tile_n is 96"):
        layer(a, config=GemmConfig(96))


def test_out_may_not_overlap_a_that_is_gathered_from() -> None:
    square = Linear(*make_problem(1, 256, 256)[1:], perm=np.arange(256))
    a = np.ones((2, 256), np.float16)
    with pytest.raises(ValueError, match="out overlaps a"):
        square(a, out=a)


def test_it_goes_wherever_the_weight_goes(tmp_path: Any) -> None:
    a, _, layer = made(bias=np.ones(N, np.float16))
    expected = layer(a)
    save(tmp_path / "w.safetensors", {"w": layer})
    loaded = load(tmp_path / "w.safetensors")["w"]
    for again in (pickle.loads(pickle.dumps(layer)), loaded, layer.to_numpy()):
        np.testing.assert_array_equal(again.perm, layer.perm)
        np.testing.assert_array_equal(again(a), expected)
        assert repr(again) == "Linear(300 -> 200, group_size=32, bias, perm, float32, numpy)"
    plain = Linear(layer.b_packed, layer.scales, None, 32, k=K, bias=layer.bias)
    assert layer.nbytes == plain.nbytes + 4 * K
    assert (plain.perm, layer.perm.dtype) == (None, np.int32)
    with pytest.raises(AttributeError):
        layer.perm = None  # type: ignore[misc]


def test_int32_permutation_is_kept_without_a_copy() -> None:
    _, _, layer = made()
    again = Linear(layer.b_packed, layer.scales, None, 32, k=K, perm=layer.perm)
    assert np.shares_memory(again.perm, layer.perm)


def test_columns_are_cut_with_the_permutation_and_rows_are_not() -> None:
    a, _, layer = made()
    parts = layer.split_columns([64, 128])
    np.testing.assert_array_equal(np.hstack([part(a) for part in parts]), layer(a))
    with pytest.raises(ValueError, match=r"perm \(act-order\) can't be split along k: its packed rows"):
        layer.split_rows([128])
