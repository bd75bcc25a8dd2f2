"""`gemm` on NumPy arrays: the whole contract, on any machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import DTYPES, ZEROS, Case
from helpers.configs import KERNEL_OPTIONS
from helpers.covering import covering, pairs_of

from cupy_w4a16 import GemmConfig, dequantize, gemm, quantize

SHAPES = {"m": (1, 2, 7, 33, 100), "n": (1, 8, 70, 1000), "k": (16, 100, 200, 600)}
OPTIONS = (
    SHAPES | KERNEL_OPTIONS | {"zeros": ZEROS, "group_size": (32, 64, 128, 256, -1), "bias": (False, True)}
)
CASES = [
    Case(**row, alpha=(1.0, -0.75)[i % 2], seed=i)
    for i, row in enumerate(covering(OPTIONS, pairs_of(OPTIONS)))
]


def multiply(case: Case, **keywords: Any) -> Any:
    a, b_packed, scales, zeros, bias = case.arguments()
    options = case.options | {"bias": bias, "dtype": case.out_dtype} | keywords
    return gemm(a, b_packed, scales, zeros, case.group_size, **options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_sizes_and_options_lie_within_the_derived_bounds(case: Case) -> None:
    c = multiply(case)
    assert c.flags.c_contiguous
    case.check(c, case.arguments())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", ZEROS)
def test_identity_activations_give_the_dequantized_weights(dtype: str, zeros: str | None) -> None:
    case = Case(200, 70, 200, 64, dtype, zeros)
    _, b_packed, scales, zero, _ = case.arguments()
    w = dequantize(b_packed, scales, zero, k=200)
    c = gemm(np.eye(200, dtype=case.np_dtype), b_packed, scales, zero)
    np.testing.assert_array_equal(c.view(np.uint16), w.view(np.uint16))


@pytest.mark.parametrize("symmetric", [True, False])
def test_error_of_float16_is_that_of_two_roundings(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    w, a = (rng.standard_normal(shape, np.float32).astype(np.float16) for shape in ((2048, 300), (100, 2048)))
    weight = quantize(w, symmetric=symmetric)
    exact = a.astype(float) @ dequantize(*weight, k=2048, dtype="float32").astype(float)
    error = np.linalg.norm(gemm(a, *weight) - exact) / np.linalg.norm(exact)
    assert error <= 2.8e-4


def test_out_is_filled_and_returned() -> None:
    case = Case(5, 70, 100)
    for out in (np.full((5, 70), np.nan, np.float16), np.full((5, 70), np.nan, np.float32)):
        assert multiply(case, dtype=None, out=out) is out
        np.testing.assert_array_equal(out, multiply(case, dtype=out.dtype))


def test_nothing_beside_a_strided_out_is_written() -> None:
    case = Case(5, 70, 100)
    buffer = np.full((7, 90), 7, np.float16)
    out = buffer[1:6, 10:80]
    multiply(case, out=out)
    np.testing.assert_array_equal(out, multiply(case))
    out[...] = 7
    assert (buffer == 7).all()


def test_lead_axes_of_a_become_those_of_the_result() -> None:
    case = Case(12, 70, 100)
    a, *weight, _ = case.arguments()
    c = gemm(a, *weight)
    np.testing.assert_array_equal(gemm(a.reshape(2, 3, 2, 100), *weight), c.reshape(2, 3, 2, 70))
    out = np.empty((3, 4, 70), np.float16)
    np.testing.assert_array_equal(gemm(a.reshape(3, 4, 100), *weight, out=out), c.reshape(3, 4, 70))
    one = gemm(a[0], *weight)  # a product of its own to BLAS, which may sum in another order
    assert one.shape == (70,)
    case.with_(m=1).check(one[None], case.arguments()._replace(a=a[:1]))


@pytest.mark.parametrize("how", ["by columns", "every second", "backwards", "broadcast"])
def test_strides_of_a_do_not_matter(how: str) -> None:
    a, *weight, _ = Case(6, 70, 100).arguments()
    strided = {
        "by columns": np.asfortranarray(a),
        "every second": np.repeat(np.repeat(a, 2, 0), 2, 1)[::2, ::2],
        "backwards": a[::-1, ::-1].copy()[::-1, ::-1],
        "broadcast": np.broadcast_to(a[:1], a.shape),
    }[how]
    np.testing.assert_array_equal(gemm(strided, *weight), gemm(np.ascontiguousarray(strided), *weight))


def test_cut_of_columns_is_the_cut_result() -> None:
    case = Case(5, 300, 200, zeros="uint8", bias=True)
    a, b_packed, scales, zeros, bias = case.arguments()
    cut = slice(64, 192)
    c = gemm(a, b_packed[1:3], scales[:, cut], zeros[:, cut], bias=bias[cut])
    part = case.arguments()._replace(
        b_packed=b_packed[1:3], scales=scales[:, cut], zeros=zeros[:, cut], bias=bias[cut]
    )
    case.with_(n=128).check(c, part)


def test_cuts_of_k_add_up() -> None:
    a, b_packed, scales, _, _ = Case(5, 70, 400).arguments()
    whole = gemm(a, b_packed, scales, dtype="float32")
    first = gemm(a[:, :256], b_packed[:, :2], scales[:2], dtype="float32")
    rest = gemm(a[:, 256:], b_packed[:, 2:], scales[2:], dtype="float32")
    np.testing.assert_allclose(first + rest, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 70, 100), (3, 0, 100), (0, 0, 0), (3, 70, 0)])
def test_empty_sizes(m: int, n: int, k: int) -> None:
    case = Case(m, n, k, bias=True)
    c = multiply(case)
    assert c.shape == (m, n)
    np.testing.assert_array_equal(c, np.broadcast_to(case.arguments().bias, (m, n)))


def test_inputs_are_left_alone() -> None:
    case = Case(5, 70, 100, zeros="float", bias=True, activation="gelu")
    arguments, before = case.arguments(), case.arguments()
    gemm(*arguments[:4], bias=arguments.bias, activation="gelu", alpha=2)
    for x, y in zip(arguments, before, strict=True):
        assert x.tobytes() == y.tobytes()


def test_same_numbers_whatever_the_config() -> None:
    case = Case(5, 70, 100)
    c = multiply(case)
    for config in (GemmConfig(), GemmConfig(64, 128, schedule="pingpong")):
        np.testing.assert_array_equal(multiply(case, config=config), c)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"config": GemmConfig(tile_n=72)}, ValueError, ("config", "tile_n is 72", "allowed are 64")),
        ({"config": GemmConfig(stages=99)}, ValueError, ("config", "stages is 99")),
        ({"config": "w4a16_sm90_gemm_128"}, TypeError, ("config", "str", "GemmConfig")),
        ({"pdl": 1}, TypeError, ("pdl", "True or False")),
        ({"workspace": np.empty(1, np.uint8)}, ValueError, ("workspace has 1 bytes", "None")),
    ],
)
def test_refused_call_says_why_and_writes_nothing(
    keywords: dict[str, Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    out = np.full((5, 70), 7, np.float16)
    with pytest.raises(error) as caught:
        multiply(Case(5, 70, 100), out=out, **keywords)
    assert all(word in str(caught.value) for word in words)
    assert (out == 7).all()
