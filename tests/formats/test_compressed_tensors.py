"""compressed-tensors: the reader against the format's definition, packed and multiplied out here."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import PermutedWeight, dequantize, from_compressed_tensors, gemm

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def packed(numbers: np.ndarray, axis: int) -> np.ndarray:
    """Eight numbers -8 to 7 along `axis` in a word, as number + 8; the last word filled up with bits 0."""
    shape = list(numbers.shape)
    shape[axis] = -(-shape[axis] // 8)
    words = np.zeros(shape, np.uint32)
    for (i, j), number in np.ndenumerate(numbers):
        at = (i // 8, j) if axis == 0 else (i, j // 8)
        words[at] |= np.uint32(int(number) + 8 << 4 * ((i, j)[axis] % 8))
    return words.view(np.int32)


def defined(numbers: np.ndarray, zero_point: np.ndarray, scale: np.ndarray, g_idx: np.ndarray) -> np.ndarray:
    """(number - zero point) * scale of (n, k), every operation in the dtype of the scales; as (k, n)."""
    w = np.zeros(numbers.shape, scale.dtype)
    for (j, i), number in np.ndenumerate(numbers):
        g = g_idx[i]
        difference = np.array(int(number)).astype(scale.dtype) - zero_point[j, g].astype(scale.dtype)
        w[j, i] = difference * scale[j, g]
    return w.T


def layer(n, k, group_size, dtype="float16", seed=0):
    rng = np.random.default_rng(seed)
    groups = 1 if group_size == -1 else -(-k // group_size)
    numbers = rng.integers(-8, 8, (n, k), np.int8)
    zero_point = rng.integers(-8, 8, (n, groups), np.int8)
    scale = np.exp2(rng.uniform(-16, 3, (n, groups))).astype(dtype)
    return numbers, zero_point, scale, np.arange(k, dtype=np.int32) // (k if group_size == -1 else group_size)


def same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.view(np.uint16), np.ascontiguousarray(wanted).view(np.uint16))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 80), st.integers(1, 300), st.sampled_from([-1, 32, 64, 128]),
    st.sampled_from(["float16", BFLOAT16]), st.sampled_from(["none", "packed", "plain"]), st.booleans(),
    st.integers(0, 2**32),
)  # fmt: skip
def test_weights_are_the_formats_bit_for_bit(n, k, group_size, dtype, zeros, act_order, seed):
    numbers, zero_point, scale, g_idx = layer(n, k, group_size, dtype, seed)
    if zeros == "none":
        zero_point = np.zeros_like(zero_point)
    if act_order:
        g_idx = np.random.default_rng(seed).permutation(g_idx)
    stored = {"none": None, "packed": packed(zero_point, 0), "plain": zero_point}[zeros]
    read = from_compressed_tensors(
        packed(numbers, 1), scale, stored, np.array([n, k]), g_idx if act_order else None
    )
    wanted = defined(numbers, zero_point, scale, g_idx)
    if isinstance(read, PermutedWeight):
        w = np.zeros((k, n), scale.dtype)
        w[read.perm] = dequantize(*read.weight, k=k)
    else:
        w = dequantize(*read, k=k)
    same_bits(w, wanted)


def test_channel_strategy_is_one_group():
    numbers, zero_point, scale, g_idx = layer(24, 200, -1)
    read = from_compressed_tensors(packed(numbers, 1), scale, packed(zero_point, 0), (24, 200))
    assert read.group_size == -1
    same_bits(dequantize(*read, k=200), defined(numbers, zero_point, scale, g_idx))


def test_padding_of_zero_points_is_no_zero():
    """n = 11: the second word's last five codes are padding."""
    numbers, zero_point, scale, _ = layer(11, 64, 32)
    stored = packed(zero_point, 0)
    stored[1] |= np.int32(0x7FFFF000)
    read = from_compressed_tensors(packed(numbers, 1), scale, stored, (11, 64))
    np.testing.assert_array_equal(read.zeros, zero_point.T + 8)


def test_padding_of_k_is_no_weight():
    numbers, _, scale, g_idx = layer(8, 70, 64)
    stored = packed(numbers, 1)
    stored[:, -1] |= np.int32(0x7F000000)
    read = from_compressed_tensors(stored, scale, None, (8, 70))
    plain = from_compressed_tensors(packed(numbers, 1), scale, None, (8, 70))
    np.testing.assert_array_equal(read.b_packed, plain.b_packed)
    same_bits(dequantize(*read, k=70), defined(numbers, np.zeros_like(scale), scale, g_idx))


def test_without_weight_shape_k_is_that_of_whole_words():
    numbers, zero_point, scale, g_idx = layer(16, 96, 32)
    read = from_compressed_tensors(packed(numbers, 1), scale, packed(zero_point, 0))
    same_bits(dequantize(*read, k=96), defined(numbers, zero_point, scale, g_idx))


class OnGpu:
    """An array as CuPy has them: what it yields are arrays, and those are no integers."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return (OnGpu(value) for value in self.values)

    def tolist(self):
        return self.values


def test_weight_shape_may_be_on_a_gpu():
    numbers, _, scale, _ = layer(16, 70, 32)
    expected = from_compressed_tensors(packed(numbers, 1), scale, None, (16, 70))
    read = from_compressed_tensors(packed(numbers, 1), scale, None, OnGpu([16, 70]))
    np.testing.assert_array_equal(read.b_packed, expected.b_packed)


def test_g_idx_that_was_never_set_is_none():
    numbers, zero_point, scale, _ = layer(16, 64, 32)
    arguments = packed(numbers, 1), scale, packed(zero_point, 0), (16, 64)
    unset = from_compressed_tensors(*arguments, np.full(64, -1, np.int32))
    for one, other in zip(unset, from_compressed_tensors(*arguments), strict=True):
        np.testing.assert_array_equal(one, other)


def test_act_order_multiplies_permuted_activations():
    numbers, zero_point, scale, g_idx = layer(16, 128, 32, seed=3)
    g_idx = np.random.default_rng(3).permutation(g_idx)
    weight, perm = from_compressed_tensors(
        packed(numbers, 1), scale, packed(zero_point, 0), (16, 128), g_idx, group_size=32
    )
    c = gemm(np.eye(128, dtype=np.float16)[..., perm], *weight)
    same_bits(c, defined(numbers, zero_point, scale, g_idx))


def test_symmetric_weights_need_no_zeros():
    numbers, zero_point, scale, _ = layer(16, 64, 32)
    zero_point[...] = 0
    for stored in (zero_point, packed(zero_point, 0), None):
        for symmetric in (None, True):
            read = from_compressed_tensors(packed(numbers, 1), scale, stored, symmetric=symmetric)
            assert read.zeros is None
    kept = from_compressed_tensors(packed(numbers, 1), scale, packed(zero_point, 0), symmetric=False)
    assert (kept.zeros == 8).all()
    zero_point[3, 1] = -2
    with pytest.raises(ValueError, match="weight_zero_point holds zeros from 6 to 8"):
        from_compressed_tensors(packed(numbers, 1), scale, packed(zero_point, 0), symmetric=True)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"bits": 8}, ValueError, "bits is 8: only 4-bit"),
        ({"weight_scale": None}, TypeError, "weight_scale is None"),
        ({"weight_packed": np.zeros((24, 128), np.int8)}, TypeError, "weight_packed is int8 .* int32 is"),
        ({"weight_packed": np.zeros((24, 32), np.int32)}, ValueError, "weight_packed .* codes of 8 bits"),
        ({"weight_packed": np.zeros((16, 24), np.int32)}, ValueError, r"\(24, 16\) is needed$"),
        ({"weight_shape": (24, 200)}, ValueError, "weight_packed .* weight_shape says n = 24, k = 200"),
        ({"weight_shape": (24,)}, ValueError, r"weight_shape holds \[24\]: two sizes"),
        ({"weight_shape": (-24, 128)}, ValueError, r"weight_shape holds \[-24, 128\]"),
        ({"weight_shape": (24, 128.5)}, TypeError, r"weight_shape\[1\] is 128.5: it must be an integer"),
        (
            {"weight_shape": np.array([24, np.nan])},
            TypeError,
            r"weight_shape\[0\] is .*24.0.*: it must be an int",
        ),
        ({"weight_shape": "24"}, TypeError, r"weight_shape\[0\] is '2'"),
        ({"weight_shape": 24}, TypeError, "weight_shape is 24: pass n and k, two integers"),
        ({"weight_shape": np.array(24)}, TypeError, r"weight_shape is array\(24\): pass n and k"),
        ({"weight_scale": np.ones((24, 4), np.float32)}, TypeError, r"weight_scale is float32: .*astype"),
        ({"weight_scale": np.ones(1, np.float16)}, ValueError, "weight_scale is of shape .1,.*2-D"),
        ({"weight_scale": np.ones((4, 24), np.float16)}, ValueError, "weight_scale .* n = 24 rows"),
        ({"weight_scale": np.ones((24, 8), np.float16)}, ValueError, "weight_zero_point is of shape"),
        ({"weight_zero_point": np.zeros((6, 4), np.int32)}, ValueError, "weight_zero_point .* of 8 bits"),
        ({"weight_zero_point": np.zeros((3, 4), np.int8)}, ValueError, "weight_zero_point is int8 of shape"),
        ({"weight_zero_point": np.full((24, 4), 8, np.int8)}, ValueError, "numbers from 8 to 8: .* -8 to 7"),
        ({"weight_zero_point": np.zeros((24, 4), np.float16)}, TypeError, "weight_zero_point is float16"),
        ({"group_size": 128}, ValueError, "weight_scale has 4 groups, but group_size 128"),
        ({"weight_g_idx": np.zeros(128, np.int32)}, ValueError, "weight_g_idx holds groups from 0 to 0"),
        ({"weight_g_idx": np.zeros(64, np.int32)}, ValueError, r"weight_g_idx is of shape \(64,\)"),
    ],
)
def test_what_is_not_served_is_named(changed, error, says):
    numbers, zero_point, scale, _ = layer(24, 128, 32)
    arguments = {
        "weight_packed": packed(numbers, 1), "weight_scale": scale, "weight_shape": np.array([24, 128]),
        "weight_zero_point": packed(zero_point, 0), **changed,
    }  # fmt: skip
    with pytest.raises(error, match=says):
        from_compressed_tensors(**arguments)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 8, 32, 64]), max_size=3).map(tuple)
DTYPES = st.sampled_from(["int8", "uint8", "int32", "uint32", "int64", "float16", "float32", BFLOAT16])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(SHAPES, DTYPES), min_size=4, max_size=4))
def test_tensors_of_any_shape_and_dtype_are_read_or_refused(given_tensors):
    """Every other exception than the two that name an argument is a crash."""
    rng = np.random.default_rng(0)
    tensors = [rng.integers(0, 4, shape).astype(dtype) for shape, dtype in given_tensors]
    refused = ""
    try:
        read = from_compressed_tensors(*tensors[:3], None, tensors[3])
    except (TypeError, ValueError) as error:
        refused = str(error)
    if refused:
        assert any(
            name in refused for name in ("weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx")
        ), refused
    else:
        weight = read.weight if isinstance(read, PermutedWeight) else read
        assert weight.b_packed.dtype == np.int32
