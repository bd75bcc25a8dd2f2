"""GPTQ: the reader against the format's definition, packed and multiplied out here a code at a time."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import PermutedWeight, QuantizedWeight, dequantize, from_gptq, gemm

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def packed(codes: np.ndarray, axis: int) -> np.ndarray:
    """Eight neighbours along `axis` in a word, the first in the lowest bits."""
    shape = list(codes.shape)
    shape[axis] //= 8
    words = np.zeros(shape, np.uint32)
    for (i, j), code in np.ndenumerate(codes):
        at = (i // 8, j) if axis == 0 else (i, j // 8)
        words[at] |= np.uint32(int(code) << 4 * ((i, j)[axis] % 8))
    return words.view(np.int32)


def minus_one_with_borrow(words: np.ndarray) -> np.ndarray:
    """v2's zeros as GPTQModel saves them in v1: 1 off every code of a word, as one number modulo 2^32."""
    less = [(int(word) - 0x11111111) % 2**32 for word in words.view(np.uint32).ravel()]
    return np.array(less, np.uint32).view(np.int32).reshape(words.shape)


def defined(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, g_idx: np.ndarray) -> np.ndarray:
    """scales[g_idx] * (codes - zeros[g_idx]), every operation in the dtype of the scales."""
    w = np.zeros(codes.shape, scales.dtype)
    for (i, j), code in np.ndenumerate(codes):
        difference = np.array(int(code) - int(zeros[g_idx[i], j])).astype(scales.dtype)
        w[i, j] = scales[g_idx[i], j] * difference
    return w


def layer(k, n, group_size, dtype="float16", seed=0, low=0, high=15):
    """Codes, zeros from `low` to `high`, scales and the g_idx of groups that are runs."""
    rng = np.random.default_rng(seed)
    groups = 1 if group_size == -1 else -(-k // group_size)
    codes = rng.integers(0, 16, (k, n), np.uint8)
    zeros = rng.integers(low, high + 1, (groups, n), np.uint8)
    scales = np.exp2(rng.uniform(-16, 3, (groups, n))).astype(dtype)
    return codes, zeros, scales, np.arange(k, dtype=np.int32) // (k if group_size == -1 else group_size)


def same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 36), st.integers(1, 10), st.sampled_from([-1, 32, 64, 128]), st.sampled_from([0, 1]),
    st.sampled_from(["float16", BFLOAT16]), st.booleans(), st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_weights_are_the_formats_bit_for_bit(k8, n8, group_size, offset, dtype, act_order, named, seed):
    k, n = 8 * k8, 8 * n8
    codes, zeros, scales, g_idx = layer(k, n, group_size, dtype, seed, offset, 15 + offset)
    if act_order:
        g_idx = np.random.default_rng(seed).permutation(g_idx)
    read = from_gptq(
        packed(codes, 0), packed(zeros - np.uint8(offset), 1), scales, g_idx if act_order or named else None,
        group_size=group_size if named else None, zero_offset=offset, symmetric=False,
    )  # fmt: skip
    wanted = defined(codes, zeros, scales, g_idx)
    if isinstance(read, PermutedWeight):
        w = np.zeros_like(wanted)
        w[read.perm] = dequantize(*read.weight, k=k)
    else:
        w = dequantize(*read, k=k)
    same_bits(w, wanted)


def test_v1_zero_of_15_is_16_and_borrows_from_nobody():
    codes, zeros, scales, g_idx = layer(64, 16, 32, low=1, high=16)
    zeros[:, ::3] = 16
    read = from_gptq(packed(codes, 0), packed(zeros - np.uint8(1), 1), scales)
    np.testing.assert_array_equal(read.zeros, zeros)
    same_bits(dequantize(*read), defined(codes, zeros, scales, g_idx))


def test_v1_saved_with_a_borrow_is_read_with_the_carry():
    codes, zeros, scales, g_idx = layer(128, 24, 32)
    zeros[:, [0, 3, 4, 7, 15, 23]] = 0
    stored = minus_one_with_borrow(packed(zeros, 1))
    read = from_gptq(packed(codes, 0), stored, scales, carry=True)
    np.testing.assert_array_equal(read.zeros, zeros)
    same_bits(dequantize(*read), defined(codes, zeros, scales, g_idx))
    plain = from_gptq(packed(codes, 0), stored, scales)
    assert (plain.zeros != zeros).any()


@pytest.mark.parametrize("low", [1, 8])
def test_the_two_ways_to_read_v1_agree_without_a_15(low):
    codes, zeros, scales, _ = layer(64, 16, -1, low=low, high=15)
    arguments = packed(codes, 0), packed(zeros - np.uint8(1), 1), scales
    for one, other in zip(from_gptq(*arguments), from_gptq(*arguments, carry=True), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("offset", [0, 1])
def test_symmetric_weights_need_no_zeros(offset):
    codes, zeros, scales, g_idx = layer(96, 8, 32, low=8, high=8)
    arguments = packed(codes, 0), packed(zeros - np.uint8(offset), 1), scales
    for symmetric in (None, True):
        read = from_gptq(*arguments, zero_offset=offset, symmetric=symmetric)
        assert read.zeros is None
        same_bits(dequantize(*read, k=96), defined(codes, zeros, scales, g_idx))
    assert (from_gptq(*arguments, zero_offset=offset, symmetric=False).zeros == 8).all()
    without = from_gptq(arguments[0], None, scales)
    np.testing.assert_array_equal(without.b_packed, read.b_packed)
    with pytest.raises(ValueError, match=r"qzeros holds zeros from .*zero_offset="):
        from_gptq(*arguments, zero_offset=1 - offset, symmetric=True)


def test_act_order_multiplies_permuted_activations():
    codes, zeros, scales, g_idx = layer(128, 16, 32, seed=5)
    g_idx = np.random.default_rng(5).permutation(g_idx)
    read = from_gptq(packed(codes, 0), packed(zeros, 1), scales, g_idx, zero_offset=0)
    assert isinstance(read, PermutedWeight)
    assert sorted(read.perm.tolist()) == list(range(128))
    identity = np.eye(128, dtype=np.float16)
    c = gemm(identity[..., read.perm], *read.weight)
    same_bits(c, defined(codes, zeros, scales, g_idx))


def test_act_order_can_not_be_forgotten():
    codes, zeros, scales, g_idx = layer(128, 16, 32)
    read = from_gptq(packed(codes, 0), packed(zeros, 1), scales, g_idx[::-1].copy(), zero_offset=0)
    with pytest.raises(TypeError, match="b_packed is a QuantizedWeight"):
        gemm(np.ones((1, 128), np.float16), *read)


def test_groups_in_order_are_not_permuted():
    codes, zeros, scales, g_idx = layer(128, 16, 32)
    read = from_gptq(packed(codes, 0), packed(zeros, 1), scales, g_idx.astype(np.int64), zero_offset=0)
    assert isinstance(read, QuantizedWeight)


def test_a_short_last_group_and_act_order():
    codes, zeros, scales, g_idx = layer(72, 8, 32)
    g_idx = np.random.default_rng(2).permutation(g_idx)
    read = from_gptq(packed(codes, 0), packed(zeros, 1), scales, g_idx, zero_offset=0)
    w = np.zeros((72, 8), np.float16)
    w[read.perm] = dequantize(*read.weight, k=72)
    same_bits(w, defined(codes, zeros, scales, g_idx))


def test_group_size_of_k_and_more_is_one_group():
    codes, zeros, scales, _ = layer(72, 8, -1)
    for size in (-1, 72, 128, None):
        assert from_gptq(packed(codes, 0), packed(zeros, 1), scales, group_size=size).group_size == -1


def test_negative_scales_change_the_sign_of_zeros_alone():
    codes, zeros, scales, g_idx = layer(64, 16, 32)
    scales = -scales
    w = dequantize(*from_gptq(packed(codes, 0), packed(zeros, 1), scales, zero_offset=0))
    wanted = defined(codes, zeros, scales, g_idx)
    assert (w == 0).any()
    same_bits(w, np.where(wanted == 0, np.float16(0), wanted))


def test_tensors_that_are_views_are_read():
    codes, zeros, scales, g_idx = layer(64, 16, 32)
    wide = np.zeros((8, 40), np.int32)
    wide[:, 3:35:2] = packed(codes, 0)
    turned = np.asfortranarray(scales)
    read = from_gptq(wide[:, 3:35:2], packed(zeros, 1), turned, zero_offset=0)
    same_bits(dequantize(*read), defined(codes, zeros, scales, g_idx))


def arguments_of(**changed):
    codes, zeros, scales, g_idx = layer(128, 16, 32)
    return {
        "qweight": packed(codes, 0), "qzeros": packed(zeros, 1), "scales": scales, "g_idx": g_idx, **changed,
    }  # fmt: skip


UNEQUAL = np.array([0] * 33 + [1] * 31 + [2] * 32 + [3] * 32, np.int32)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"bits": 8}, ValueError, "bits is 8: only 4-bit"),
        ({"bits": 4.0}, ValueError, "bits is 4.0: only 4-bit"),
        ({"zero_offset": 2}, ValueError, "zero_offset is 2: allowed are 1"),
        ({"qweight": None}, TypeError, "qweight is None"),
        ({"qweight": np.zeros((16, 16), np.int64)}, TypeError, "qweight is int64 .* int32 is served"),
        ({"qweight": np.zeros(16, np.int32)}, ValueError, "qweight is of shape .16,.: it must be 2-D"),
        ({"qweight": np.zeros((32, 16), np.int32)}, ValueError, "g_idx .* k = 256; .* codes of 8 bits"),
        ({"qweight": np.zeros((12, 16), np.int32)}, ValueError, "g_idx .* k = 96; .* codes of 3 bits"),
        ({"qweight": np.zeros((16, 24), np.int32)}, ValueError, r"scales is of shape \(4, 16\), .* n = 24"),
        ({"qzeros": np.zeros((4, 4), np.int32)}, ValueError, r"qzeros is of shape \(4, 4\).*of 8 bits"),
        ({"qzeros": np.zeros((3, 2), np.int32)}, ValueError, r"qzeros is of shape \(3, 2\)"),
        ({"qzeros": np.zeros((4, 2), np.uint8)}, TypeError, "qzeros is uint8"),
        ({"scales": np.ones((4, 16), np.float32)}, TypeError, "scales is float32: allowed are float16"),
        ({"scales": np.ones(16, np.float16)}, ValueError, "scales is of shape .16,.: it must be 2-D"),
        ({"group_size": 64}, ValueError, "scales has 4 groups, but group_size 64 and k = 128 make 2"),
        ({"group_size": 16}, ValueError, "group_size is 16: served are powers of two from 32"),
        ({"group_size": 1.5}, TypeError, "group_size is 1.5"),
        ({"group_size": -1}, ValueError, "scales has 4 groups, but group_size -1"),
        ({"g_idx": np.zeros(128, np.float32)}, TypeError, "g_idx is float32"),
        ({"g_idx": np.zeros((2, 64), np.int32)}, ValueError, r"g_idx is of shape \(2, 64\)"),
        ({"g_idx": UNEQUAL}, ValueError, "g_idx holds groups from 0 to 3 .* 4 groups of 32 rows"),
        ({"g_idx": UNEQUAL - 1}, ValueError, "g_idx holds groups from -1 to 2"),
        ({"g_idx": list(range(128))}, TypeError, "g_idx is of type list"),
    ],
)
def test_what_is_not_served_is_named(changed, error, says):
    with pytest.raises(error, match=says):
        from_gptq(**arguments_of(**changed))


def test_groups_of_16_rows_are_named():
    scales = np.ones((8, 16), np.float16)
    with pytest.raises(ValueError, match="scales has 8 groups for k = 128, 16 rows each"):
        from_gptq(**arguments_of(scales=scales, qzeros=np.zeros((8, 2), np.int32), g_idx=None))


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
        read = from_gptq(*tensors)
    except (TypeError, ValueError) as error:
        refused = str(error)
    if refused:
        assert any(name in refused for name in ("qweight", "qzeros", "scales", "g_idx")), refused
    else:
        weight = read.weight if isinstance(read, PermutedWeight) else read
        assert weight.b_packed.dtype == np.int32
