"""What is read and written in place, and what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from fake_arrays import (
    PLACES,
    ROWS,
    InterfaceArray,
    K,
    M,
    N,
    check,
    cupy_array,
    has,
    interface,
    message_of,
    numpy_array,
)

from cupy_w4a16._checks import check_gemm


def test_cuts_of_b_packed_and_scales_are_read_in_place(make):
    b_packed, scales = make("b_packed", (6, 5, 1024)), make("scales", (ROWS, 6 * 64))
    found = check(make, b_packed=b_packed[2:5, 1:3], scales=scales[:, 128:320], zeros=scales[:, 128:320])
    assert (found.b_row_bytes, found.scales_row_bytes, found.zeros_row_bytes) == (5 * 4096, 768, 768)
    assert (found.problem.n, found.problem.zeros) == (N, "float16")


def test_one_row_needs_no_stride(make):
    found = check(make, b_packed=make("b_packed", (6, 2, 1024))[::6], scales=make("scales", (8, 64))[::2])
    assert (found.b_row_bytes, found.scales_row_bytes) == (2 * 4096, 256)
    found = check(make, b_packed=make("b_packed", (6, 2, 1024))[::6], scales=make("scales", (8, 64))[::-8])
    assert found.scales_row_bytes == 128


@pytest.mark.parametrize("cut", [lambda b: b[:, ::2], lambda b: b[::-1, :2], lambda b: b[:, 1::-1]])
def test_b_packed_that_is_not_dense(make, cut):
    cut_b = cut(make("b_packed", (3, 4, 1024)))
    has(
        message_of(ValueError, make, b_packed=cut_b),
        "b_packed of shape (3, 2, 1024)",
        str(cut_b.strides),
        "b_packed.copy()",
    )


def test_rows_of_blocks_that_no_bulk_copy_reaches():
    b_packed = cupy_array("b_packed", strides=(8200, 4096, 4))
    has(message_of(ValueError, cupy_array, b_packed=b_packed), "strides (8200, 4096, 4)", "b_packed.copy()")
    found = check(cupy_array, b_packed=cupy_array("b_packed", strides=(8208, 4096, 4)))
    assert found.b_row_bytes == 8208


@pytest.mark.parametrize("name", ["scales", "zeros"])
@pytest.mark.parametrize("cut", [lambda x: x[:ROWS, ::2], lambda x: x[ROWS - 1 :: -1, :N]])
def test_scales_and_zeros_that_are_not_dense(make, name, cut):
    x = cut(make(name, (2 * ROWS, 2 * N)))
    message = message_of(ValueError, make, **{name: x})
    has(message, f"{name} of shape (4, 192)", str(x.strides), f".ascontiguousarray({name})")


def test_repeated_rows_of_scales(make):
    x = np.broadcast_to(numpy_array("scales", (1, N)), (ROWS, N))
    has(message_of(ValueError, numpy_array, scales=x), "strides (0, 2)", "numpy.ascontiguousarray(scales)")


def test_strided_bias(make):
    has(
        message_of(ValueError, make, bias=make("bias", (2 * N,))[::2]),
        "bias has a stride of 4 bytes",
        ".ascontiguousarray(bias)",
    )


def gpu_a(shape: Any, strides: Any = None, at: int = PLACES["a"]) -> Any:
    return check(cupy_array, a=cupy_array("a", shape, strides=strides, at=at))


@pytest.mark.parametrize(
    ("shape", "strides", "row_bytes"),
    [
        ((M, K), None, 512),
        ((M, K), (1024, 2), 1024),  # a[:, :k] of a wider array
        ((2, 3, K), (3 * 528, 528, 2), 528),
        ((3, 1, K), (1024, 17, 2), 1024),  # the stride of an axis of one element means nothing
        ((1, K), (2, 2), 512),  # nor does the row stride of one row
        ((1, 200), (2, 2), 400),
        ((1, 201), (402, 2), 416),
        ((K,), (2,), 512),
    ],
)
def test_a_read_in_place(shape, strides, row_bytes):
    k = shape[-1]
    weight = {
        "b_packed": cupy_array("b_packed", (3, -(-k // 128), 1024)),
        "scales": cupy_array("scales", (ROWS, N)),
    }
    found = check_gemm(cupy_array("a", shape, strides=strides), **weight)
    assert (found.a_in_place, found.a_row_bytes) == (True, row_bytes)
    assert (found.a.data.ptr, found.a.shape) == (PLACES["a"], (math.prod(shape[:-1]), k))


@pytest.mark.parametrize(
    ("shape", "strides", "at"),
    [
        ((M, K), None, PLACES["a"] + 2),  # the address
        ((K,), None, PLACES["a"] + 8),
        ((M, K), (1024, 2), PLACES["a"] + 8),
        ((M, K), (514, 2), PLACES["a"]),  # the row stride
        ((M, K), (2, 32), PLACES["a"]),  # a.T
        ((M, K), (1024, 4), PLACES["a"]),  # a[:, ::2]
        ((M, K), (-512, 2), PLACES["a"]),  # a[::-1]
        ((M, K), (0, 2), PLACES["a"]),  # broadcast_to
        ((M, K), (16, 2), PLACES["a"]),  # rows that overlap
        ((2, 3, K), (2048, 512, 2), PLACES["a"]),  # no one row stride
        ((2, 3, K), (512, 1024, 2), PLACES["a"]),
    ],
)
def test_a_that_has_to_be_copied(shape, strides, at):
    found = gpu_a(shape, strides, at)
    assert (found.a_in_place, found.a_row_bytes) == (False, 512)
    assert found.a.data.ptr == at  # no copy was made here
    assert found.problem.m == math.prod(shape[:-1])


def test_copied_rows_are_rounded_up_to_16_bytes():
    weight = {"b_packed": cupy_array("b_packed"), "scales": cupy_array("scales")}
    found = check_gemm(cupy_array("a", (M, 201)), **weight)
    assert (found.a_in_place, found.a_row_bytes) == (False, 416)


def test_place_of_a_counts_each_time_though_its_layout_is_remembered():
    assert gpu_a((M, K)).a_in_place
    assert not gpu_a((M, K), at=PLACES["a"] + 4).a_in_place
    assert gpu_a((M, K)).a_in_place


def test_out_with_strided_rows_passes(make):
    wide = make("out", (M, 2 * N + 1))
    assert check(make, out=wide[:, 1 : N + 1]).out_row_bytes == 2 * (2 * N + 1)
    deep = make("out", (2, 3, 2 * N))
    assert check(make, a=make("a", (2, 3, K)), out=deep[..., :N]).out_row_bytes == 4 * N


@pytest.mark.parametrize("cut", [lambda x: x[:M, ::2], lambda x: x[M - 1 :: -1, :N], lambda x: x.T[:M, :N]])
def test_strides_of_out(make, cut):
    out = cut(make("out", (2 * N, 2 * N)))
    has(
        message_of(ValueError, make, out=out),
        "out of shape (5, 192)",
        str(out.strides),
        "one positive stride apart",
    )


def test_out_without_one_row_stride(make):
    out = make("out", (2, 4, N))[:, :3]
    has(message_of(ValueError, make, a=make("a", (2, 3, K)), out=out), "out of shape (2, 3, 192)", "strides")


def test_out_whose_rows_lie_on_each_other():
    out = cupy_array("out", strides=(0, 2))
    has(message_of(ValueError, cupy_array, out=out), "out of shape (5, 192)", "strides (0, 2)")


def test_read_only_out(views):
    out = numpy_array("out")
    out.flags.writeable = False
    has(message_of(ValueError, numpy_array, out=out), "out is read-only", "out=None")
    shown = interface("out", data=(PLACES["out"], True))
    has(message_of(ValueError, cupy_array, out=InterfaceArray(shown=shown)), "out is read-only")
