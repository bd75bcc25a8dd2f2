"""Dtypes of every argument and of the result."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from fake_arrays import BFLOAT16, N, check, cupy_array, has, message_of, numpy_array


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", ">f2"])
def test_dtype_of_a(make, dtype):
    if make is cupy_array and dtype == ">f2":
        pytest.skip("CuPy has no other byte order")
    message = message_of(TypeError, make, a=make("a", dtype=dtype))
    library = make.__name__.split("_")[0]
    has(message, f"a is {np.dtype(dtype)}", f"a.astype({library}.float16)", "a.astype(ml_dtypes.bfloat16)")


@pytest.mark.parametrize("name", ["scales", "bias"])
@pytest.mark.parametrize("dtype", ["f4", BFLOAT16, "i2"])
def test_dtype_that_is_not_that_of_a(make, name, dtype):
    message = message_of(TypeError, make, **{name: make(name, dtype=dtype)})
    has(
        message,
        f"{name} is {np.dtype(dtype)}",
        "a is float16",
        f"{name}.astype({make.__name__.split('_')[0]}.float16)",
    )
    half = {other: make(other, dtype=BFLOAT16) for other in ("a", "scales", "bias")} | {name: make(name)}
    message = message_of(TypeError, make, **half)
    has(message, f"{name} is float16", "a is bfloat16", f"{name}.astype(ml_dtypes.bfloat16)")


@pytest.mark.parametrize("dtype", ["f8", "i8", "u4", "?", BFLOAT16])
def test_dtype_of_zeros(make, dtype):
    message = message_of(TypeError, make, zeros=make("zeros", dtype=dtype))
    has(message, f"zeros is {np.dtype(dtype)}", "uint8, int8, int32", "float16", "zeros.astype(")


@pytest.mark.parametrize("dtype", ["u1", "i1", "i4", "f2", "f4"])
def test_dtypes_of_zeros_that_pass(make, dtype):
    zeros = make("zeros", dtype=dtype)
    found = check(make, zeros=zeros)
    assert found.problem.zeros == np.dtype(dtype).name
    assert found.zeros_row_bytes == N * zeros.itemsize


@pytest.mark.parametrize("dtype", ["i1", "i4"])
@pytest.mark.parametrize("value", [-1, 17])
def test_integer_zeros_past_16(dtype, value):
    zeros = numpy_array("zeros", dtype=dtype)
    zeros[1, 2], zeros[3, 1] = 16, 0
    assert check(numpy_array, zeros=zeros).problem.zeros
    zeros[2, 3] = value
    has(
        message_of(ValueError, numpy_array, zeros=zeros),
        f"zeros holds {value} at [2, 3]",
        "0 to 16",
        "astype(scales.dtype)",
    )


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", np.int32, "nonsense", [1], ml_dtypes.bfloat16])
def test_dtype_of_the_result(make, dtype):
    message = message_of(TypeError, make, dtype=dtype)
    has(message, f"dtype is {dtype!r}", "float16 (the default) or float32", ".astype(")


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("f4"), "float16", np.float16])
def test_dtypes_of_the_result_that_pass(make, dtype):
    assert check(make, dtype=dtype).out_dtype == np.dtype(dtype)


def test_out_decides_the_dtype_where_dtype_does_not(make):
    found = check(make, out=make("out", dtype="f4"))
    assert (found.problem.out_dtype, found.out_row_bytes) == ("float32", 4 * N)
    has(
        message_of(TypeError, make, out=make("out", dtype="f8")),
        "out is float64",
        "float16 (that of a) or float32",
        ".empty(",
    )
    message = message_of(TypeError, make, out=make("out"), dtype="float32")
    has(message, "out is float16", "float32, which dtype= asks for", "dtype=None")
