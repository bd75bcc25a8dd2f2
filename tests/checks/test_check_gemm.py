"""What a good call gives, and `alpha` and `activation`."""

from __future__ import annotations

import math
import pickle

import cupy
import numpy as np
import pytest
from fake_arrays import (
    ALL,
    BFLOAT16,
    GROUP,
    K,
    M,
    N,
    arguments,
    check,
    cupy_array,
    has,
    message_of,
    numpy_array,
)
from helpers.fake_driver import on_gpu

from cupy_w4a16 import _check_out
from cupy_w4a16._checks import check_gemm
from cupy_w4a16._errors import CompileError, UnsupportedDeviceError, W4A16Error


def test_all_arguments_pass(make):
    found = check(make, *ALL, group_size=GROUP, alpha=0.5, activation="gelu", dtype="float16")
    problem = found.problem
    assert (problem.m, problem.n, problem.k, problem.group_size) == (M, N, K, GROUP)
    assert (problem.dtype, problem.zeros, problem.out_dtype) == ("float16", "uint8", "float16")
    assert found.xp is (np if make is numpy_array else cupy)
    assert (found.a_in_place, found.a_row_bytes) == (True, 2 * K)
    assert (found.b_row_bytes, found.scales_row_bytes, found.zeros_row_bytes) == (2 * 4096, 2 * N, N)
    assert (found.out_row_bytes, found.out_dtype, found.lead_shape) == (2 * N, np.float16, (M,))
    assert (found.alpha, found.activation) == (0.5, "gelu")


def test_required_arguments_alone_pass(make):
    found = check(make)
    assert found.problem.group_size == GROUP
    assert (found.zeros, found.bias, found.out, found.zeros_row_bytes) == (None, None, None, 0)
    assert (found.alpha, found.activation, found.out_row_bytes) == (1.0, None, 2 * N)


def test_arrays_come_through_as_they_are(make):
    given = arguments(make, *ALL)
    found = check_gemm(**given)
    for name, x in given.items():
        assert getattr(found, name) is x


def test_bfloat16_passes(make):
    half = {name: make(name, dtype=BFLOAT16) for name in ("a", "scales", "bias")}
    found = check(make, **half)
    assert (found.problem.dtype, found.problem.out_dtype, found.out_dtype) == (
        "bfloat16",
        "bfloat16",
        BFLOAT16,
    )


@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (1, 2, 3)])
def test_leading_axes_of_a(make, lead):
    found = check(make, a=make("a", (*lead, K)))
    assert found.lead_shape == lead
    assert found.problem.m == math.prod(lead)
    assert found.a.shape == (math.prod(lead), K)
    assert found.a_in_place


@pytest.mark.parametrize(("m", "n", "k"), [(0, N, K), (M, 0, K), (M, N, 0), (0, 0, 0)])
def test_empty_sizes_pass(make, m, n, k):
    blocks_n, blocks_k, rows = -(-n // 64), -(-k // 128), -(-k // 128)
    weight = {"b_packed": make("b_packed", (blocks_n, blocks_k, 1024)), "scales": make("scales", (rows, n))}
    found = check_gemm(make("a", (m, k)), **weight, group_size=128, out=make("out", (m, n)))
    assert (found.problem.m, found.problem.n, found.problem.k) == (m, n, k)


def test_sizes_past_32_bits_are_exact():
    m, n, k = 1 << 21, 1 << 20, 1 << 18  # a has 2^39 elements, the last at 2^40 bytes
    a = on_gpu((m, k), "f2", 1 << 44)
    b_packed = on_gpu((n // 64, k // 128, 1024), "i4", 1 << 46)
    found = check_gemm(a, b_packed, on_gpu((k // 128, n), "f2", 1 << 47))
    assert (found.problem.m, found.problem.n, found.problem.k) == (m, n, k)
    last_row = on_gpu((n,), "f2", (1 << 44) + 2 * (m - 1) * k)
    with pytest.raises(ValueError, match="out overlaps a"):
        check_gemm(
            a[: m - 1],
            b_packed,
            on_gpu((k // 128, n), "f2", 1 << 47),
            out=on_gpu((m - 1, n), "f2", (1 << 44) - 2),
        )
    found = check_gemm(a[0], b_packed, on_gpu((k // 128, n), "f2", 1 << 47), out=last_row)
    assert found.lead_shape == ()


@pytest.mark.parametrize("alpha", [2, 0.25, -1.0, 0, np.float16(0.5), np.int64(3), 3.4e38, math.inf])
def test_alphas_that_pass(make, alpha):
    found = check(make, alpha=alpha).alpha
    assert (found, type(found)) == (float(alpha), float)


def test_nan_is_an_alpha(make):
    assert math.isnan(check(make, alpha=math.nan).alpha)


@pytest.mark.parametrize("alpha", ["1", None, 1j, True, np.ones(()), [1.0]])
def test_alpha_of_the_wrong_type(make, alpha):
    message = message_of(TypeError, make, alpha=alpha)
    has(message, f"alpha is of type {type(alpha).__name__}", "Python number", "float(alpha)")


def test_alpha_on_the_gpu_is_not_waited_for():
    has(
        message_of(TypeError, cupy_array, alpha=cupy_array("bias", ())),
        "alpha is of type ndarray",
        "float(alpha)",
    )


@pytest.mark.parametrize(
    ("alpha", "shown"),
    [(1e39, "1e+39"), (-1e300, "-1e+300"), (10**5000, "an integer"), (-(10**400), "an integer")],
    ids=["1e39", "-1e300", "5001 digits", "-401 digits"],
)
def test_alpha_past_float32(make, alpha, shown):
    has(message_of(ValueError, make, alpha=alpha), f"alpha is {shown}", "float32", "3.403e+38")


@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu", "relu"])
def test_activations_that_pass(make, activation):
    assert check(make, activation=activation).activation == activation


@pytest.mark.parametrize(
    ("activation", "hint"),
    [
        ("swish", "'silu'"),
        ("GELU", "'gelu'"),
        ("gelu_new", "'gelu_tanh'"),
        ("tanh", "apply any other to the result"),
    ],
)
def test_unknown_activation(make, activation, hint):
    message = message_of(ValueError, make, activation=activation)
    has(message, f"activation is {activation!r}", "None, 'gelu', 'gelu_tanh', 'silu', 'relu'", hint)


@pytest.mark.parametrize("activation", [3, np.array(["gelu"]), np.array(["gelu", "relu"])], ids=repr)
def test_activation_of_the_wrong_type(make, activation):
    has(message_of(TypeError, make, activation=activation), f"activation is {activation!r}", "name", "'relu'")


def test_compile_error_survives_pickling():
    error = pickle.loads(pickle.dumps(CompileError("failed", log="line 3", source_path="gemm.cu")))
    assert (str(error), error.log, error.source_path) == ("failed", "line 3", "gemm.cu")


def test_own_errors_are_no_argument_errors():
    for error in (CompileError, UnsupportedDeviceError):
        assert issubclass(error, W4A16Error)
        assert not issubclass(error, (TypeError, ValueError))


def test_check_writable_leaves_other_errors_to_others():
    _check_out.check_writable(object())
    _check_out.check_writable(None)
