"""`group_size`, given and found, with k and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_arrays import N, check, cupy_array, has, message_of, numpy_array, quantized_message
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16._check_quantized import check_quantized
from cupy_w4a16._checks import check_gemm


@pytest.mark.parametrize("group_size", [0, 16, 48, 100, -2, -64, 31])
def test_group_size_that_is_none(make, group_size):
    message = message_of(ValueError, make, group_size=group_size)
    has(message, f"group_size is {group_size}", "powers of two from 32", "-1")


@pytest.mark.parametrize("group_size", [64.0, True, "64", np.float32(64)])
def test_group_size_of_the_wrong_type(make, group_size):
    assert (
        check(make, group_size=64).problem.group_size == 64
    )  # so that an answer is there to be found for 64.0
    has(message_of(TypeError, make, group_size=group_size), f"group_size is {group_size!r}", "integer")


@pytest.mark.parametrize(("group_size", "needs"), [(32, 8), (128, 2), (-1, 1), (512, 1)])
def test_group_size_that_does_not_fit_the_rows(make, group_size, needs):
    message = message_of(ValueError, make, group_size=group_size)
    has(
        message,
        f"group_size is {group_size}",
        f"k = 256 needs {needs} rows",
        "scales of shape (4, 192) has 4",
    )
    has(message, "group_size=64 would fit")
    assert (
        check(make, scales=make("scales", (needs, N)), group_size=group_size).problem.group_size == group_size
    )


def test_numpy_integers_are_group_sizes(make):
    group_size = check(make, group_size=np.int64(64)).problem.group_size
    assert (group_size, type(group_size)) == (64, int)


def test_rows_that_no_group_size_gives(make):
    message = message_of(ValueError, make, scales=make("scales", (3, N)))
    has(message, "scales of shape (3, 192)", "3 rows", "k = 256", "1 (-1), 2 (128), 4 (64), 8 (32)")
    message = message_of(ValueError, make, scales=make("scales", (3, N)), group_size=64)
    has(message, "has 3", "pass scales that fit")
    has(message_of(ValueError, make, scales=make("scales", (16, N))), "16 rows", "8 (32)")
    has(message_of(ValueError, make, scales=make("scales", (0, N))), "0 rows")


@given(k=st.integers(1, 9000), exponent=st.integers(5, 14))
@settings(max_examples=300, deadline=None)
def test_group_size_is_found_from_any_rows(k, exponent):
    group_size = 1 << exponent
    rows = -(-k // group_size)
    weight = np.zeros((1, -(-k // 128), 1024), np.int32), np.zeros((rows, 1), np.float16)
    found = check_gemm(np.zeros((1, k), np.float16), *weight).problem.group_size
    assert found == (group_size if rows > 1 else -1)
    assert (
        check_gemm(np.zeros((1, k), np.float16), *weight, None, group_size).problem.group_size == group_size
    )


def weight_of(make: Callable[..., Any], k: int, n: int, rows: int) -> tuple[Any, Any]:
    return make("b_packed", (-(-n // 64), -(-k // 128), 1024)), make("scales", (rows, n))


@pytest.mark.parametrize(
    ("k", "rows", "group_size", "found_k", "found_group"),
    [
        (256, 4, 64, 256, 64),
        (256, 4, None, 256, 64),
        (256, 8, None, 256, 32),
        (200, 7, 32, 224, 32),  # whole groups, in as many blocks
        (300, 1, None, 384, -1),  # one group of all k: whole blocks
        (300, 1, -1, 384, -1),
        (64, 2, 32, 64, 32),
        (100, 2, 64, 128, 64),
        (96, 3, None, 96, 32),
        (4096, 32, None, 4096, 128),
        (0, 0, 128, 0, 128),
        (0, 0, None, 0, -1),
    ],
)
def test_whole_groups_where_k_is_not_given(make, k, rows, group_size, found_k, found_group):
    found = check_quantized(*weight_of(make, k, 70, rows), None, group_size)
    assert (found.k, found.group_size, found.n) == (found_k, found_group, 70)


def test_given_k_is_kept(make):
    found = check_quantized(*weight_of(make, 200, 70, 7), None, None, 200)
    assert (found.k, found.group_size) == (200, 32)
    assert check_quantized(*weight_of(make, 200, 70, 1), k=np.int64(200)).k == 200


def test_k_that_does_not_fit(make):
    weight = weight_of(make, 256, 70, 4)
    has(
        quantized_message(ValueError, *weight, k=257),
        "k=257 was given",
        "k from 129 to 256",
        "(4, 70)",
        "4 rows",
    )
    has(quantized_message(ValueError, *weight, k=-1), "k is -1", "0 or more")
    has(quantized_message(TypeError, *weight, k=256.0), "k is 256.0", "integer")
    has(quantized_message(ValueError, *weight, k=129), "4 rows", "k = 129", "5 (32)")


def test_groups_that_are_not_whole_need_k(make):
    weight = weight_of(make, 300, 70, 2)
    has(
        quantized_message(ValueError, *weight, None, 256),
        "256 x 2 rows",
        "512 k",
        "3 blocks of 128 k",
        "pass k=",
    )
    assert check_quantized(*weight, None, 256, 300).k == 300
    has(quantized_message(ValueError, *weight), "2 rows", "3 blocks", "pass k=")


def test_two_answers_are_no_answer(make):
    weight = weight_of(make, 128, 70, 2)
    has(quantized_message(ValueError, *weight), "group_size is None", "both 32 and 64", "group_size= or k=")
    assert check_quantized(*weight, k=128).group_size == 64
    assert check_quantized(*weight, k=64).group_size == 32


def test_quantized_arguments_are_checked_alike(make):
    b_packed, scales = weight_of(make, 256, 128, 4)
    has(quantized_message(TypeError, b_packed, None), "scales is None")
    has(
        quantized_message(TypeError, b_packed, make("scales", (4, 128), "f4")),
        "scales is float32",
        "scales.astype(",
    )
    has(quantized_message(ValueError, b_packed[0], scales), "b_packed is int32 of shape (2, 1024)")
    has(quantized_message(ValueError, b_packed, scales, group_size=48), "group_size is 48", "powers of two")
    has(quantized_message(TypeError, b_packed, scales, group_size=64.0), "group_size is 64.0")
    other = cupy_array("scales", (4, 128)) if make is numpy_array else numpy_array("scales", (4, 128))
    has(quantized_message(TypeError, b_packed, other), "b_packed (", "scales (", "mixed")


def test_quantized_weight_on_another_gpu(gpu):
    b_packed, scales = weight_of(cupy_array, 256, 128, 4)
    gpu.current = 1
    has(quantized_message(ValueError, b_packed, scales), "b_packed is on GPU 0", "current device is GPU 1")


def test_weights_may_be_dequantized_on_any_gpu(gpu):
    gpu.kinds[0] = ("NVIDIA A100", 8, 0)
    assert check_quantized(*weight_of(cupy_array, 256, 128, 4)).k == 256
    assert gpu.questions == 0
