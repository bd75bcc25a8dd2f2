"""assert_gemm_close: lets right results of every kind of kernel pass, and fails for each planted fault."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cupy_w4a16 import testing
from cupy_w4a16._activations import ACTIVATIONS
from cupy_w4a16._pack import pack, unpack
from cupy_w4a16._quantize import dequantize
from cupy_w4a16._reference import gemm_numpy
from cupy_w4a16.testing import Problem, assert_gemm_close, make_problem

BFLOAT16 = ml_dtypes.bfloat16
DTYPES = ["float16", "bfloat16"]
ZEROS = [None, "integer", "float"]
M, N, K = 130, 200, 700


def round_to_nearest_of(p: Problem) -> np.ndarray:
    """A kernel that rounds the weights."""
    return gemm_numpy(*p, None, 1.0, None, p.a.dtype)


def scaled_sums_of(p: Problem) -> np.ndarray:
    """A kernel that multiplies exact q - zero and scales the float32 sum of each group."""
    k, n = p.a.shape[1], p.scales.shape[1]
    q = unpack(p.b_packed, k, n).astype(np.float32)
    size = k if p.group_size == -1 else p.group_size
    total = np.zeros((p.a.shape[0], n), np.float32)
    for r, start in enumerate(range(0, k, size)):
        zero = np.float32(8) if p.zeros is None else p.zeros[r].astype(np.float32)
        part = p.a[:, start : start + size].astype(np.float32) @ (q[start : start + size] - zero)
        total += part * p.scales[r].astype(np.float32)
    return total.astype(p.a.dtype)


def half_arithmetic_of(p: Problem) -> np.ndarray:
    """A kernel that subtracts and multiplies in a's dtype, rounding twice: within 2 ulp with float zeros."""
    k, n = p.a.shape[1], p.scales.shape[1]
    rows = np.arange(k) // (k if p.group_size == -1 else p.group_size)
    zero = np.asarray(8) if p.zeros is None else p.zeros[rows]
    w = (unpack(p.b_packed, k, n).astype(p.a.dtype) - zero.astype(p.a.dtype)) * p.scales[rows]
    return (p.a.astype(np.float32) @ w.astype(np.float32)).astype(p.a.dtype)


KERNELS = [round_to_nearest_of, scaled_sums_of, half_arithmetic_of]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", [*ZEROS, "float32"])
@pytest.mark.parametrize("group_size", [32, 128, -1])
@pytest.mark.parametrize("a_of", ["both signs", "one sign", "outliers"])
def test_right_results_of_every_kind_of_kernel_pass(
    kernel: Callable[[Problem], np.ndarray], dtype: str, zeros: str | None, group_size: int, a_of: str
) -> None:
    p = make_problem(M, N, K, group_size, dtype=dtype, zeros=zeros)
    if a_of == "one sign":
        np.abs(p.a, out=p.a)
    elif a_of == "outliers":
        p.a[:, ::97] *= np.asarray(100, p.a.dtype)
    assert_gemm_close(kernel(p), *p)


def wrong_tile(c: np.ndarray, p: Problem) -> np.ndarray:
    c[64:128, 128:192] = c[64:128, 64:128]
    return c


def tile_of_too_few_digits(c: np.ndarray, p: Problem) -> np.ndarray:
    c[64:128, 64:128] *= np.asarray(1 + 4 * float(ml_dtypes.finfo(c.dtype).eps), c.dtype)
    return c


def swapped_columns(c: np.ndarray, p: Problem) -> np.ndarray:
    c[:, [10, 11]] = c[:, [11, 10]]
    return c


def wrong_row(c: np.ndarray, p: Problem) -> np.ndarray:
    c[-1] = c[-2]
    return c


def one_wrong_element(c: np.ndarray, p: Problem) -> np.ndarray:
    c[100, 199] += np.asarray(0.5, c.dtype)
    return c


def nan_in_the_corner(c: np.ndarray, p: Problem) -> np.ndarray:
    c[-1, -1] = np.nan
    return c


def infinity(c: np.ndarray, p: Problem) -> np.ndarray:
    c[3, 5] = np.inf
    return c


def last_row_of_k_is_lost(c: np.ndarray, p: Problem) -> np.ndarray:
    a = p.a.copy()
    a[:, -1] = 0
    return round_to_nearest_of(p._replace(a=a))


def scales_of_the_group_before(c: np.ndarray, p: Problem) -> np.ndarray:
    scales = np.concatenate([p.scales[:1], p.scales[:-1]])
    return round_to_nearest_of(p._replace(scales=scales))


def group_starts_a_row_late(c: np.ndarray, p: Problem) -> np.ndarray:
    """The first row of one group takes the scales of the group before."""
    k, at = p.a.shape[1], p.group_size
    w, late = (dequantize(p.b_packed, s, p.zeros, at, k=k) for s in (p.scales, np.roll(p.scales, 1, 0)))
    w[at] = late[at]
    return (p.a.astype(np.float32) @ w.astype(np.float32)).astype(c.dtype)


FAULTS = [
    wrong_tile, tile_of_too_few_digits, swapped_columns, wrong_row, one_wrong_element, nan_in_the_corner,
    infinity, last_row_of_k_is_lost, scales_of_the_group_before, group_starts_a_row_late,
]  # fmt: skip


def can_be_seen(fault: Any, dtype: str, zeros: str | None, group_size: int) -> bool:
    if fault is one_wrong_element:  # 0.5 is within the worst case of 700 weights rounded to 8 bits
        return dtype == "float16"
    if fault is tile_of_too_few_digits:  # 2 ulp of every weight are allowed
        return zeros != "float"
    if fault in (scales_of_the_group_before, group_starts_a_row_late):  # one group has no neighbour
        return group_size != -1
    return True


@pytest.mark.parametrize(
    ("fault", "dtype", "zeros", "group_size"),
    [case for case in itertools.product(FAULTS, DTYPES, ZEROS, [64, -1]) if can_be_seen(*case)],
)
def test_planted_fault_is_found(
    fault: Callable[[np.ndarray, Problem], np.ndarray], dtype: str, zeros: str | None, group_size: int
) -> None:
    p = make_problem(M, N, K, group_size, dtype=dtype, zeros=zeros)
    c = fault(round_to_nearest_of(p), p)
    with pytest.raises(AssertionError) as caught:
        assert_gemm_close(c, *p)
    assert "c[" in str(caught.value)


def test_fault_below_the_worst_case_is_found_by_its_tile_and_named() -> None:
    p = make_problem(M, N, 4096)
    a = p.a.copy()
    a[64:128, -1] = 0
    with pytest.raises(AssertionError) as caught:
        assert_gemm_close(round_to_nearest_of(p._replace(a=a)), *p)
    assert "c[64:128, 0:64]" in str(caught.value)
    assert "4 tiles" in str(caught.value)


def test_element_is_named_with_its_place_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(testing._STRIP_NUMBERS, "numpy", 1)
    monkeypatch.setattr(testing, "_ROWS", 64)
    p = make_problem(M, N, K)
    c = round_to_nearest_of(p)
    assert_gemm_close(c, *p)
    c[129, 199] = 77
    with pytest.raises(AssertionError) as caught:
        assert_gemm_close(c, *p)
    assert "c[129, 199] is 77" in str(caught.value)
    assert "1 of 26000 elements" in str(caught.value)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("out_dtype", [np.float16, np.float32])
def test_options_are_part_of_the_check(activation: str | None, out_dtype: Any) -> None:
    p = make_problem(70, 80, 300)
    bias = np.linspace(-3, 3, 80).astype(np.float16)
    c = gemm_numpy(*p, bias, 2.5, activation, out_dtype)
    assert_gemm_close(c, *p, bias=bias, alpha=2.5, activation=activation)
    names = [name for name in (None, *ACTIVATIONS) if name != activation]
    if (
        out_dtype == np.float16
    ):  # the two gelus are 5e-4 apart at most, less than float16 rounds such results by
        names = [name for name in names if {name, activation} != {"gelu", "gelu_tanh"}]
    others: list[dict[str, Any]] = [{"bias": bias, "alpha": 2.5, "activation": name} for name in names]
    others += [{"bias": None, "alpha": 2.5, "activation": activation}]
    others += [{"bias": bias, "alpha": 2.52, "activation": activation}]
    others += [{"bias": np.roll(bias, 1), "alpha": 2.5, "activation": activation}]
    for other in others:
        with pytest.raises(AssertionError):
            assert_gemm_close(c, *p, **other)


def test_float32_results_are_held_to_float32() -> None:
    p = make_problem(64, 64, 256)
    c = gemm_numpy(*p, None, 1.0, None, np.float32)
    assert_gemm_close(c, *p)
    with pytest.raises(AssertionError):
        assert_gemm_close(c.astype(np.float16).astype(np.float32), *p)


def test_overflow_and_nan_of_the_exact_result_are_expected_of_c() -> None:
    p = make_problem(8, 70, 64)
    p.a[0] *= np.float16(20000)
    p.a[1, 5] = np.nan
    p.a[2, 5] = np.inf
    c = gemm_numpy(*p, None, 1000.0, None, np.float16)
    assert np.isinf(c[0]).any()
    assert_gemm_close(c, *p, alpha=1000.0)
    c[1] = 0
    with pytest.raises(AssertionError):
        assert_gemm_close(c, *p, alpha=1000.0)


def test_subnormal_weights_and_results_pass() -> None:
    p = make_problem(64, 70, 256)
    p = p._replace(scales=(p.scales.astype(np.float32) * 2.0**-12).astype(np.float16))
    for kernel in KERNELS:
        assert_gemm_close(kernel(p), *p)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 40), (3, 0, 40), (3, 5, 0), (1, 1, 1)])
def test_smallest_sizes_pass(m: int, n: int, k: int) -> None:
    p = make_problem(m, n, k, 32, zeros="integer")
    assert_gemm_close(round_to_nearest_of(p), *p)


def test_leading_dimensions_pass_and_another_shape_fails() -> None:
    p = make_problem(6, 70, 100)
    c = round_to_nearest_of(p)
    assert_gemm_close(c.reshape(2, 3, 70), p.a.reshape(2, 3, 100), *p[1:])
    assert_gemm_close(c[4], p.a[4], *p[1:])
    with pytest.raises(AssertionError):
        assert_gemm_close(c[:5], *p)


def test_problems_are_the_same_each_time_and_differ_by_seed() -> None:
    one, same, other = (make_problem(3, 70, 100, 32, zeros="float", seed=seed) for seed in (1, 1, 2))
    for x, y in zip(one, same, strict=True):
        np.testing.assert_array_equal(x, y)
    assert (one.a != other.a).any()
    assert (one.b_packed != other.b_packed).any()


def test_integer_zeros_reach_both_ends() -> None:
    zeros = make_problem(1, 200, 256, 32, zeros="integer").zeros
    assert (zeros.min(), zeros.max()) == (0, 16)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"zeros": "int"}, ValueError),
        ({"dtype": "float32"}, TypeError),
        ({"group_size": 20}, ValueError),
        ({"m": -1}, ValueError),
        ({"n": 2.0}, TypeError),
        ({"k": "3"}, TypeError),
        ({"seed": -1}, ValueError),
        ({"xp": "numpy"}, TypeError),
    ],
)
def test_bad_arguments_of_make_problem_are_named(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{next(iter(arguments))} is "):
        make_problem(**{"m": 1, "n": 2, "k": 3} | arguments)


HALF = np.float16


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"c": None}, TypeError, "c is None: an array is needed"),
        ({"a": None}, TypeError, "a is None: an array is needed"),
        ({"c": [1.0]}, TypeError, "c is of type list"),
        ({"c": np.zeros((2, 70))}, TypeError, "the dtype of c is dtype('float64'); allowed are float16"),
        ({"a": np.zeros((2, 100))}, TypeError, "a is float64: allowed are float16 and bfloat16"),
        ({"a": np.array(1, HALF)}, ValueError, "a is of shape (): it must be (k,)"),
        ({"a": np.zeros((2, 300), HALF)}, ValueError, "has k = 300"),
        # These would broadcast.
        ({"bias": np.zeros(1, HALF)}, ValueError, "bias is of shape (1,): it must be (n,) = (70,)"),
        ({"bias": np.zeros((2, 70), HALF)}, ValueError, "bias is of shape (2, 70)"),
        ({"bias": np.zeros(70)}, TypeError, "bias is float64, but a is float16"),
        ({"scales": np.ones((4, 70), BFLOAT16)}, TypeError, "scales is bfloat16, but a is float16"),
        ({"alpha": "x"}, TypeError, "alpha is of type str"),
        ({"alpha": 1e39}, ValueError, "alpha is 1e+39: it must fit float32"),
        ({"activation": "swish"}, ValueError, "did you mean 'silu'?"),
        ({"activation": 3}, TypeError, "activation is 3"),
    ],
)
def test_bad_arguments_of_the_check_are_named_as_gemm_names_them(
    arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    p = make_problem(2, 70, 100, 32)
    with pytest.raises(error) as caught:
        assert_gemm_close(**{"c": round_to_nearest_of(p), **p._asdict()} | arguments)
    assert said in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", [*ZEROS, "float32"])
def test_cupy_problems_and_checks_are_those_of_numpy(dtype: str, zeros: str | None) -> None:
    import cupy

    p, on_gpu = (make_problem(M, N, K, dtype=dtype, zeros=zeros, xp=xp) for xp in (np, cupy))
    for x, y in zip(on_gpu[:4], p[:4], strict=True):
        np.testing.assert_array_equal(cupy.asnumpy(x), y) if y is not None else None
    c = cupy.asarray(round_to_nearest_of(p))
    assert_gemm_close(c, *on_gpu)
    c[64:128, 128:192] = c[64:128, 64:128]
    with pytest.raises(AssertionError):
        assert_gemm_close(c, *on_gpu)


def test_parts_of_float_zeros_that_cancel_may_be_summed_apart() -> None:
    # Every code is its column's zero: w is 0, and float32 sums of q a and zero a differ by their roundings.
    k = 4096
    a = np.random.default_rng(0).standard_normal((3, k)).astype(np.float16)
    weight = (
        pack(np.full((k, 64), 7, np.uint8)),
        np.ones((32, 64), np.float16),
        np.full((32, 64), 7, np.float32),
    )
    wide = a.astype(np.float32)
    apart = (wide @ np.full((k, 64), 7, np.float32)) - 7 * wide.sum(axis=1, dtype=np.float32)[:, None]
    assert apart.any()
    assert_gemm_close(apart, a, *weight)
    with pytest.raises(AssertionError):
        assert_gemm_close(apart + 1, a, *weight)


def test_infinity_with_float_zeros_may_become_nan() -> None:
    a, *weight = make_problem(1, 64, 128, zeros="float")
    a[0, 0] = np.inf
    expected = (a.astype(np.float64) @ dequantize(*weight).astype(np.float64)).astype(np.float16)
    nan = np.full_like(expected, np.nan)
    assert_gemm_close(np.where(np.isinf(expected), nan, expected), a, *weight)
    a[0, 0] = 1
    with pytest.raises(AssertionError):
        assert_gemm_close(nan, a, *weight)
