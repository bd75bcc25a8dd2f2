"""Shapes that have to agree, and a `b_packed` in another library's layout."""

from __future__ import annotations

import numpy as np
import pytest
from fake_arrays import GROUP, ROWS, K, M, N, check, has, message_of, numpy_array

from cupy_w4a16 import pack


def test_scalar_a(make):
    has(message_of(ValueError, make, a=make("a", ())), "a is of shape ()", "(m, k)", "reshape")


def test_k_mismatch_names_all_three(make):
    message = message_of(ValueError, make, a=make("a", (M, 257)))
    has(message, "a of shape (5, 257) has k = 257", "b_packed of shape (3, 2, 1024)", "2 blocks of 128 k")
    has(message, "k from 129 to 256", "scales of shape (4, 192) has 4 rows")
    assert check(make, a=make("a", (M, 256))).problem.k == 256
    assert (
        check(make, a=make("a", (M, 193))).problem.group_size == GROUP
    )  # the least k of 4 rows in groups of 64
    message = message_of(ValueError, make, a=make("a", (M, 128)))
    has(message, "k = 128", "k from 129 to 256")


@pytest.mark.parametrize("n", [128, 193])
def test_n_mismatch(make, n):
    message = message_of(ValueError, make, scales=make("scales", (ROWS, n)))
    has(
        message,
        f"scales of shape (4, {n}) has n = {n}",
        "b_packed of shape (3, 2, 1024)",
        "n from 129 to 192",
        "[i:j]",
    )
    assert check(make, scales=make("scales", (ROWS, 129))).problem.n == 129


def test_transposed_scales_are_recognised(make):
    has(
        message_of(ValueError, make, scales=make("scales", (N, ROWS))),
        "scales of shape (192, 4)",
        "transposed",
        "scales.T.copy()",
    )


def test_scales_of_one_axis(make):
    has(
        message_of(ValueError, make, scales=make("scales", (N,))),
        "scales is of shape (192,)",
        "2-D",
        "scales[None, :]",
    )
    assert check(make, scales=make("scales", (1, N))).problem.group_size == -1


def test_shape_of_zeros(make):
    has(
        message_of(ValueError, make, zeros=make("zeros", (1, N))),
        "zeros is of shape (1, 192)",
        "(4, 192)",
        "one zero for every scale",
    )
    qzeros = make("zeros", (ROWS, N // 8), "i4")
    has(message_of(ValueError, make, zeros=qzeros), "zeros is of shape (4, 24)", "packed qzeros", "from_gptq")


def test_shape_of_bias(make):
    has(
        message_of(ValueError, make, bias=make("bias", (1, N))),
        "bias is of shape (1, 192)",
        "(n,) = (192,)",
        "bias.reshape(-1)",
    )
    has(
        message_of(ValueError, make, bias=make("bias", (N - 1,))),
        "bias is of shape (191,)",
        "(192,)",
        "each column",
    )


@pytest.mark.parametrize("shape", [(M, N - 1), (1, M, N), (N, M), (N,)])
def test_shape_of_out(make, shape):
    message = message_of(ValueError, make, out=make("out", shape))
    has(message, f"out is of shape {shape}", "the result of (5, 192)", "pass an out of that shape")


def test_shape_of_out_follows_the_leading_axes(make):
    assert check(make, a=make("a", (K,)), out=make("out", (N,))).problem.m == 1
    has(
        message_of(ValueError, make, a=make("a", (K,)), out=make("out", (1, N))),
        "out is of shape (1, 192)",
        "(192,)",
    )
    assert check(make, a=make("a", (2, 3, K)), out=make("out", (2, 3, N))).problem.m == 6


GPTQ, AWQ, COMPRESSED = "GPTQ qweight", "AWQ qweight", "compressed-tensors weight_packed"


@pytest.mark.parametrize(
    ("shape", "dtype", "looks_like", "todo"),
    [
        ((K // 8, N), "i4", GPTQ, "from_gptq("),
        ((K, N // 8), "i4", AWQ, "from_awq("),
        ((N, K // 8), "i4", COMPRESSED, "from_compressed_tensors("),
        ((K // 16, 2 * N), "i4", "Marlin weight", "checkpoint it was made of"),
        ((K, N), "u1", "codes (k, n)", "pack(b_packed)"),
        ((N, K), "u1", "codes (n, k)", "pack(b_packed.T)"),
        ((K // 2, N), "u1", "two k a byte", "pack(q)"),
        ((K, N // 2), "u1", "two columns a byte", "pack(q)"),
        ((N, K // 2), "i1", "two k a byte", "pack(q)"),
        ((K, N), "f2", "not quantized", "gemm(a, *quantize(w))"),
        ((N, K), "f4", "not quantized", "gemm(a, *quantize(w.T))"),
        ((7, 9), "f2", "not quantized", "gemm(a, *quantize(w))"),
        ((3, 2, 1024), "u4", "the shape is right", "b_packed.view(numpy.int32)"),
        ((3, 2, 1024), "i8", "the dtype is not", "pack(q)"),
        ((3 * 2 * 1024,), "i4", "if it holds our words", "reshape"),
        ((3, 2, 512), "i4", "other formats", "unpacked to codes"),
        ((7, 9), "i4", "other formats", "unpacked to codes"),
    ],
)
def test_foreign_layout_is_recognised(make, shape, dtype, looks_like, todo):
    error = ValueError if dtype == "i4" else TypeError
    message = message_of(error, make, b_packed=make("b_packed", shape, dtype))
    has(message, f"b_packed is {np.dtype(dtype)} of shape {shape}", "(ceil(n / 64), ceil(k / 128), 1024)")
    has(message, looks_like, todo)


def test_other_byte_order_is_told_what_keeps_the_codes():
    ours = pack(np.random.default_rng(0).integers(0, 16, (K, N)))
    foreign = ours.astype(ours.dtype.newbyteorder())
    message = message_of(TypeError, numpy_array, b_packed=foreign)
    has(message, "the byte order", "pass b_packed.astype(numpy.int32)")
    np.testing.assert_array_equal(check(numpy_array, b_packed=foreign.astype(np.int32)).b_packed, ours)


def test_foreign_layouts_of_one_shape_are_both_named(make):
    square = {
        "a": make("a", (M, N)),
        "b_packed": make("b_packed", (N, N // 8), "i4"),
        "scales": make("scales", (3, N)),
    }
    has(message_of(ValueError, make, **square), AWQ, COMPRESSED)
