"""A `Linear` cut along either axis: its parts are views that make up the whole."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
from helpers.fake_calls import BIAS, SCALES, ZEROS, B, activations, on_a_gpu, result
from helpers.fake_driver import FakeDriver, on_gpu
from helpers.linears import N, made, real

from cupy_w4a16 import GemmConfig

FIRST = GemmConfig(64, 128, schedule="pingpong")


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
