"""AWQ: the reader against the format's definition, packed and multiplied out here a code at a time."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import dequantize, from_awq, gemm

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def packed(codes: np.ndarray) -> np.ndarray:
    """Eight columns in a word: the even ones, then the odd ones, from the lowest bits up."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for (i, j), code in np.ndenumerate(codes):
        within = j % 8
        place = within // 2 if within % 2 == 0 else 4 + within // 2
        words[i, j // 8] |= np.uint32(int(code) << 4 * place)
    return words.view(np.int32)


def defined(codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group_size: int) -> np.ndarray:
    """(codes - zeros) * scales, every operation in the dtype of the scales."""
    w = np.zeros(codes.shape, scales.dtype)
    for (i, j), code in np.ndenumerate(codes):
        g = 0 if group_size == -1 else i // group_size
        w[i, j] = np.array(int(code) - int(zeros[g, j])).astype(scales.dtype) * scales[g, j]
    return w


def layer(k, n, group_size, dtype="float16", seed=0):
    rng = np.random.default_rng(seed)
    groups = 1 if group_size == -1 else -(-k // group_size)
    codes = rng.integers(0, 16, (k, n), np.uint8)
    zeros = rng.integers(0, 16, (groups, n), np.uint8)
    return codes, zeros, np.exp2(rng.uniform(-16, 3, (groups, n))).astype(dtype)


def same_bits(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.view(np.uint16), wanted.view(np.uint16))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 300), st.integers(1, 10), st.sampled_from([-1, 32, 64, 128]),
    st.sampled_from(["float16", BFLOAT16]), st.booleans(), st.integers(0, 2**32),
)  # fmt: skip
def test_weights_are_the_formats_bit_for_bit(k, n8, group_size, dtype, named, seed):
    codes, zeros, scales = layer(k, 8 * n8, group_size, dtype, seed)
    read = from_awq(packed(codes), packed(zeros), scales, group_size=group_size if named else None)
    same_bits(dequantize(*read, k=k), defined(codes, zeros, scales, group_size))


def test_identity_activations_give_the_weights():
    codes, zeros, scales = layer(128, 24, 64)
    read = from_awq(packed(codes), packed(zeros), scales)
    same_bits(gemm(np.eye(128, dtype=np.float16), *read), defined(codes, zeros, scales, 64))


@pytest.mark.parametrize("column", range(8))
def test_each_column_of_a_word_is_found(column):
    codes = np.zeros((32, 8), np.uint8)
    codes[:, column] = 15
    read = from_awq(packed(codes), np.zeros((1, 1), np.int32), np.ones((1, 8), np.float16))
    assert np.flatnonzero(dequantize(*read, k=32)[0]).tolist() == [column]


def test_symmetric_weights_need_no_zeros():
    codes, zeros, scales = layer(64, 16, 32)
    zeros[...] = 8
    for symmetric in (None, True):
        assert from_awq(packed(codes), packed(zeros), scales, symmetric=symmetric).zeros is None
    kept = from_awq(packed(codes), packed(zeros), scales, symmetric=False)
    assert (kept.zeros == 8).all()
    without = from_awq(packed(codes), None, scales)
    same_bits(dequantize(*without), defined(codes, zeros, scales, 32))
    zeros[1, 5] = 9
    with pytest.raises(ValueError, match="qzeros holds zeros from 8 to 9"):
        from_awq(packed(codes), packed(zeros), scales, symmetric=True)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"bits": 3}, ValueError, "bits is 3: only 4-bit"),
        ({"scales": None}, TypeError, "scales is None"),
        ({"qweight": np.zeros((16, 64), np.int16)}, TypeError, "qweight is int16 .*'gemv_fast' are not"),
        ({"qweight": np.zeros((16, 16), np.int32)}, ValueError, r"qweight is of shape \(16, 16\).*'gemv'"),
        ({"qweight": np.zeros((128, 4), np.int32)}, ValueError, "qweight .* codes of 8 bits"),
        ({"qzeros": np.zeros((4, 4), np.int32)}, ValueError, r"qzeros .* needs \(4, 2\).* of 8 bits"),
        ({"qzeros": np.zeros((2, 2), np.int32)}, ValueError, r"qzeros is of shape \(2, 2\)"),
        ({"qzeros": np.zeros((4, 2), np.float16)}, TypeError, "qzeros is float16"),
        ({"scales": np.ones((4, 16), np.float64)}, TypeError, "scales is float64: allowed are float16"),
        ({"scales": np.ones((4, 16, 1), np.float16)}, ValueError, "scales is of shape .* must be 2-D"),
        ({"group_size": 128}, ValueError, "scales has 4 groups, but group_size 128 and k = 128 make 1"),
        ({"group_size": 48}, ValueError, "group_size is 48: served are powers of two"),
    ],
)
def test_what_is_not_served_is_named(changed, error, says):
    codes, zeros, scales = layer(128, 16, 32)
    arguments = {"qweight": packed(codes), "qzeros": packed(zeros), "scales": scales, **changed}
    with pytest.raises(error, match=says):
        from_awq(**arguments)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 4, 8, 32, 64]), max_size=3).map(tuple)
DTYPES = st.sampled_from(["int8", "uint8", "int32", "uint32", "int64", "float16", "float32", BFLOAT16])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(SHAPES, DTYPES), min_size=3, max_size=3))
def test_tensors_of_any_shape_and_dtype_are_read_or_refused(given_tensors):
    """Every other exception than the two that name an argument is a crash."""
    rng = np.random.default_rng(0)
    tensors = [rng.integers(0, 4, shape).astype(dtype) for shape, dtype in given_tensors]
    refused = ""
    try:
        read = from_awq(*tensors)
    except (TypeError, ValueError) as error:
        refused = str(error)
    if refused:
        assert any(name in refused for name in ("qweight", "qzeros", "scales")), refused
    else:
        assert read.b_packed.dtype == np.int32
