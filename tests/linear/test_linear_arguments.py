"""What no `Linear` is made of, and what no call takes, is refused with a word on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.linears import K, M, N, made

from cupy_w4a16 import GemmConfig, Linear, dequantize, quantize
from cupy_w4a16.testing import make_problem


def weight_of(layer: Linear) -> Any:
    return dequantize(layer.b_packed, layer.scales, layer.zeros, layer.group_size, k=layer.in_features)


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
    with pytest.raises(ValueError, match=r"in_features, 300$"):
        layer(np.zeros((1, K), np.float16))
    np.testing.assert_array_equal(layer(a), (a.astype(np.float32) @ weight_of(layer)) + layer.bias)


@pytest.mark.parametrize(
    ("group_size", "k", "inferred", "wrong"),
    [(128, 300, 384, 250), (32, 300, 320, 288), (-1, 300, 384, 250)],
)
def test_k_that_was_to_be_passed_is_named(group_size: int, k: int, inferred: int, wrong: int) -> None:
    weight = quantize(np.ones((k, 64), np.float16), group_size)
    layer = Linear(*weight)
    message = f"in_features, {inferred}, as .* whole groups; for a weight of {k} rows make .* with k={k}$"
    with pytest.raises(ValueError, match=message):
        layer(np.ones((2, k), np.float16))
    with pytest.raises(ValueError, match=f"in_features, {inferred}$"):
        layer(np.ones((2, wrong), np.float16))


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


def test_pdl_is_a_bool_or_none() -> None:
    _, layer = made()
    for pdl in (1, "0", np.True_):
        with pytest.raises(TypeError, match=r"pdl is .*pass True, False, or None"):
            Linear(layer.b_packed, layer.scales, k=K, pdl=pdl)
