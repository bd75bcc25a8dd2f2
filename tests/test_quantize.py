"""quantize and dequantize against the formulas written as loops, and the numbers their docstrings promise."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import _quantize
from cupy_w4a16._pack import pack, unpack
from cupy_w4a16._quantize import dequantize, quantize

BFLOAT16 = ml_dtypes.bfloat16
F32 = np.float32


def gaussian(k: int, n: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((k, n), np.float32).astype(dtype)


def looped_quantize(w: np.ndarray, group: int, symmetric: bool, dtype: Any) -> tuple[Any, Any, Any]:
    """The formulas of quantize's docstring, one weight at a time."""
    k, n = w.shape
    group = k if group == -1 else group
    rows = -(-k // group)
    q, scales, zeros = np.zeros((k, n), np.uint8), np.zeros((rows, n), dtype), np.zeros((rows, n), np.uint8)
    for j in range(n):
        for r in range(rows):
            part = [F32(x) for x in w[r * group : (r + 1) * group, j]]
            if symmetric:
                extreme = max(part, key=abs)
                scale, zero = F32(dtype(-extreme / F32(8))), F32(8)
            else:
                low, high = min(*part, F32(0)), max(*part, F32(0))
                scale = F32(dtype(high / F32(15) - low / F32(15)))
                zero = min(max(np.rint(-low / scale), F32(0)), F32(15))
            scales[r, j], zeros[r, j] = scale, zero
            for i, x in enumerate(part):
                q[r * group + i, j] = min(max(np.rint(x / scale) + zero, 0), 15)
    return q, scales, None if symmetric else zeros


@pytest.mark.parametrize("symmetric", ["false", 0, None, np.array([True])], ids=repr)
def test_symmetric_that_is_no_bool_is_named(symmetric: Any) -> None:
    with pytest.raises(TypeError, match=r"symmetric is .*, of type \w+: pass True or False"):
        quantize(gaussian(64, 1), symmetric=symmetric)


def test_symmetric_may_be_a_bool_of_numpy() -> None:
    assert quantize(gaussian(64, 1), symmetric=np.True_).zeros is None  # type: ignore[arg-type]
    assert quantize(gaussian(64, 1), symmetric=np.False_).zeros is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("w_dtype", [np.float16, BFLOAT16, np.float32, np.float64])
@pytest.mark.parametrize("group_size", [32, 64, -1])
def test_codes_scales_and_zeros_follow_the_documented_formulas(
    symmetric: bool, w_dtype: Any, group_size: int
) -> None:
    w = gaussian(100, 5, w_dtype)  # 100: the last group is short
    w[:, 4] = abs(w[:, 4])  # a column of one sign
    dtype = w_dtype if w_dtype in (np.float16, BFLOAT16) else np.float16
    weight = quantize(w, group_size, symmetric=symmetric)
    q, scales, zeros = looped_quantize(w, group_size, symmetric, dtype)
    np.testing.assert_array_equal(unpack(weight.b_packed, 100, 5), q)
    np.testing.assert_array_equal(weight.scales, scales)
    assert weight.scales.dtype == dtype
    assert weight.group_size == group_size
    if symmetric:
        assert weight.zeros is None
    else:
        assert weight.zeros.dtype == np.uint8
        np.testing.assert_array_equal(weight.zeros, zeros)


def test_codes_are_chosen_for_the_rounded_scale() -> None:
    # In bfloat16 the scale 1.005 / 8 is rounded by 0.3 %, which moves the borders between codes.
    w = np.array([[-1.005]] + [[0.01 * i] for i in range(95)], np.float32)
    weight = quantize(w, -1, dtype=BFLOAT16)
    q = unpack(weight.b_packed, *w.shape).astype(np.float64)
    scale = float(weight.scales[0, 0])
    assert scale != 1.005 / 8
    best = np.clip(np.rint(w / scale), -8, 7) + 8
    np.testing.assert_array_equal(q, best)
    assert (best != np.clip(np.rint(w / (1.005 / 8)), -8, 7) + 8).any()


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_symmetric_gives_the_extreme_back_exactly_and_bounds_the_rest(dtype: Any) -> None:
    w = gaussian(256, 64, dtype)
    weight = quantize(w, 64)
    groups = w.astype(np.float32).reshape(4, 64, 64)
    error = abs(dequantize(*weight, dtype="float32").reshape(4, 64, 64) - groups)
    scale = weight.scales.astype(np.float32)[:, None]
    extreme = abs(groups) == abs(groups).max(1, keepdims=True)
    assert (np.where(extreme, error, np.inf).min(1) == 0).all()  # of two that differ by their sign, one
    clipped = groups / scale > 7.5
    assert (error[~clipped] <= np.broadcast_to(abs(scale) / 2, error.shape)[~clipped]).all()
    assert (error <= abs(scale)).all()
    assert (weight.scales < 0).any()
    assert (weight.scales > 0).any()


@pytest.mark.parametrize(
    ("group", "symmetric", "percent"), [(128, True, 10.3), (32, True, 8.6), (128, False, 10.1)]
)
def test_error_on_gaussian_weights_is_the_documented_one(group: int, symmetric: bool, percent: float) -> None:
    w = gaussian(1024, 512)
    error = dequantize(*quantize(w, group, symmetric=symmetric), dtype="float32") - w
    rms = 100 * np.sqrt((error**2).mean() / (w**2).mean())
    assert rms == pytest.approx(percent, abs=0.1)


def test_zero_group_gets_scale_one_and_stays_zero() -> None:
    w = gaussian(128, 3)
    w[64:, 1] = 0
    for symmetric in (True, False):
        weight = quantize(w, 64, symmetric=symmetric)
        assert weight.scales[1, 1] == 1
        assert (dequantize(*weight)[64:, 1] == 0).all()


@pytest.mark.parametrize(("dtype", "tiny"), [(np.float16, 2.0**-24), (BFLOAT16, 2.0**-133)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scale_below_the_dtype_becomes_its_smallest_number(dtype: Any, tiny: float, symmetric: bool) -> None:
    w = np.array([[tiny / 4, -tiny / 4]] * 32, np.float32)
    weight = quantize(w, 32, symmetric=symmetric, dtype=dtype)
    assert (abs(weight.scales.astype(np.float64)) == tiny).all()
    assert (dequantize(*weight, dtype="float32") == 0).all()  # as near as the dtype itself comes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_nan_and_infinity_are_refused_by_column(bad: float, symmetric: bool) -> None:
    w = gaussian(100, 200)
    w[99, 130] = bad
    with pytest.raises(ValueError) as caught:
        quantize(w, 64, symmetric=symmetric)
    assert "column 130" in str(caught.value)


def test_float64_beyond_float32_is_refused() -> None:
    w = np.ones((40, 70))
    w[3, 66:68] = -1e300, 1e39
    with pytest.raises(ValueError) as caught:
        quantize(w)
    assert "w exceeds float32" in str(caught.value)
    assert "in column 66 (the first of 2): scale w down" in str(caught.value)
    w[3, 65] = np.inf  # is no finite number to scale, and refused as what it is
    w[3, 66:] = 1
    with pytest.raises(ValueError, match="w holds a NaN or an infinity in column 65"):
        quantize(w)


@pytest.mark.parametrize("symmetric", [True, False])
def test_scale_that_overflows_its_dtype_is_refused(symmetric: bool) -> None:
    w = np.array([[1.0, 1e6]] * 32, np.float32)
    with pytest.raises(ValueError) as caught:
        quantize(w, 32, symmetric=symmetric)
    assert "column 1 " in str(caught.value)
    assert "65504" in str(caught.value)
    weight = quantize(w, 32, symmetric=symmetric, dtype="bfloat16")
    assert float(dequantize(*weight)[0, 1]) == pytest.approx(1e6, rel=0.01)


def test_largest_float32_weights_do_not_overflow_on_the_way() -> None:
    w = np.array([[3.4e38], [-3.4e38]], np.float32)
    weight = quantize(w, -1, symmetric=False, dtype="bfloat16")
    assert np.isfinite(weight.scales.astype(np.float32)).all()


@settings(deadline=None, max_examples=40)
@given(
    k=st.integers(0, 150), n=st.integers(0, 140), group_size=st.sampled_from([32, 64, 128, 256, -1]),
    symmetric=st.booleans(), dtype=st.sampled_from([np.float16, BFLOAT16]), seed=st.integers(0, 99),
)  # fmt: skip
def test_symmetric_weights_quantize_to_themselves(
    k: int, n: int, group_size: int, symmetric: bool, dtype: Any, seed: int
) -> None:
    weight = quantize(gaussian(k, n, dtype, seed), group_size, symmetric=symmetric)
    rows = -(-k // (max(k, 1) if group_size == -1 else group_size))
    assert weight.scales.shape == (rows, n)
    assert weight.b_packed.shape == (-(-n // 64), -(-k // 128), 1024)
    w = dequantize(*weight, k=k, dtype="float32")
    assert w.shape == (k, n)
    if symmetric:  # -8 alone has the largest magnitude, so that the scale is found again
        again = quantize(w, group_size, dtype=dtype)
        np.testing.assert_array_equal(again.b_packed, weight.b_packed)
        np.testing.assert_array_equal(again.scales, weight.scales)


@pytest.mark.parametrize("symmetric", [True, False])
def test_strips_of_columns_meet_without_a_seam(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    w = gaussian(200, 300)
    weight = quantize(w, 64, symmetric=symmetric)
    back = dequantize(*weight, k=200)
    monkeypatch.setitem(_quantize.STRIP_WEIGHTS, "numpy", 200 * 128)
    for one, other in zip(quantize(w, 64, symmetric=symmetric), weight, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(dequantize(*weight, k=200), back)


def test_transposed_weights_need_no_copy_first() -> None:
    w = gaussian(300, 130)
    for one, other in zip(quantize(np.ascontiguousarray(w.T).T, 32), quantize(w, 32), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
@pytest.mark.parametrize("zeros", [None, "integer", "float", "float32"])
@pytest.mark.parametrize("group_size", [32, -1])
def test_dequantize_is_float32_rounded_once(dtype: Any, zeros: str | None, group_size: int) -> None:
    rng = np.random.default_rng(3)
    k, n, rows = 70, 9, 3 if group_size == 32 else 1
    q = rng.integers(0, 16, (k, n), dtype=np.uint8)
    scales = rng.standard_normal((rows, n), np.float32).astype(dtype)
    zero = None
    if zeros == "integer":
        zero = rng.integers(0, 17, (rows, n)).astype(rng.choice(["uint8", "int8", "int32"]))
    elif zeros is not None:
        zero = rng.uniform(0, 16, (rows, n)).astype(np.float32)
        zero = zero if zeros == "float32" else zero.astype(dtype)
    w = dequantize(pack(q), scales, zero, group_size, k=k)
    exact = dequantize(pack(q), scales, zero, k=k, dtype=np.float32)
    assert w.dtype == dtype
    for i in range(k):
        for j in range(n):
            r = i // 32 if group_size == 32 else 0
            z = F32(8) if zero is None else F32(zero[r, j])
            expected = (F32(q[i, j]) - z) * F32(scales[r, j])
            assert exact[i, j] == expected
            assert w[i, j] == dtype(expected)


def test_dequantize_without_k_gives_whole_groups() -> None:
    weight = quantize(gaussian(100, 3), 32)
    assert dequantize(*weight).shape == (128, 3)
    assert (dequantize(*weight)[100:] == 0).all()
    assert dequantize(*quantize(gaussian(100, 3), -1)).shape == (128, 3)


def test_dequantize_of_sliced_blocks_is_the_slice() -> None:
    weight = quantize(gaussian(512, 200), 64)
    w = dequantize(*weight)
    columns = dequantize(weight.b_packed[1:3], weight.scales[:, 64:192], k=512)
    np.testing.assert_array_equal(columns, w[:, 64:192])
    rows = dequantize(weight.b_packed[:, 1:3], weight.scales[2:6], k=256)
    np.testing.assert_array_equal(rows, w[128:384])


def test_overflowing_weights_become_infinite_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    w = dequantize(pack(np.full((32, 1), 15, np.uint8)), np.full((1, 1), 30000, np.float16), k=32)
    assert np.isposinf(w).all()
    assert not recwarn.list


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"group_size": 48}, ValueError, "48"),
        ({"group_size": 16}, ValueError, "16"),
        ({"group_size": 0}, ValueError, "powers of two"),
        ({"group_size": 64.0}, TypeError, "64.0"),
        ({"dtype": "float32"}, TypeError, "float32"),
        ({"method": "gptq"}, ValueError, "'rtn'"),
        ({"w": np.zeros((2, 2), np.int8)}, TypeError, "int8"),
        ({"w": np.zeros(3, np.float32)}, ValueError, "(3,)"),
        ({"w": [[1.0]]}, TypeError, "list"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        quantize(**{"w": gaussian(64, 2), **arguments})
    assert next(iter(arguments)) in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float32])
@pytest.mark.parametrize("group_size", [32, 128, -1])
def test_cupy_gives_the_same_bits(symmetric: bool, dtype: Any, group_size: int) -> None:
    import cupy

    w = gaussian(1000, 200, dtype)
    weight = quantize(w, group_size, symmetric=symmetric)
    on_gpu = quantize(cupy.asarray(w), group_size, symmetric=symmetric)
    for one, other in zip(on_gpu[:3], weight[:3], strict=True):
        if other is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(cupy.asnumpy(one), other)
    for out in ("float16", "bfloat16", "float32"):
        back = cupy.asnumpy(dequantize(*on_gpu, k=1000, dtype=out))
        np.testing.assert_array_equal(back, dequantize(*weight, k=1000, dtype=out))


@pytest.mark.gpu
def test_cupy_refuses_nan_by_column() -> None:
    import cupy

    w = cupy.asarray(gaussian(100, 200))
    w[99, 130] = np.nan
    with pytest.raises(ValueError) as caught:
        quantize(w, 64)
    assert "column 130" in str(caught.value)
