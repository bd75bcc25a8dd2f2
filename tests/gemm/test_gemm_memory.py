"""What the kernels read and write: strided, cut and foreign arrays among poison, and nothing else."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
from helpers.cases import Case
from helpers.foreign_arrays import ByDLPack, ByInterface
from helpers.gpu import DENSE, GROUP_LAYOUTS, Layout, Placed, multiply, poisoned

from cupy_w4a16 import gemm
from cupy_w4a16._config import NAMED_CONFIGS

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("compiled")]

NAMED = tuple(NAMED_CONFIGS.values())


def on_gpu(*arrays: Any) -> list[Any]:
    return [None if x is None else cupy.asarray(x) for x in arrays]


def check(case: Case, layout: Layout = DENSE) -> None:
    arguments = case.arguments()
    case.check(multiply(case, arguments, layout), arguments)


# --- where results go ---


@pytest.mark.parametrize(
    "case", [Case(m, n, 200, config=c) for c in NAMED for m, n in ((133, 328), (5, 331))], ids=str
)
@pytest.mark.parametrize("float32_out", [False, True])
@pytest.mark.parametrize(
    "layout",
    [
        DENSE,
        Layout(out_gap=8),
        Layout(out_gap=5),
        Layout(out_gap=13, out_offset=1),
        Layout(out_gap=16, out_offset=8),
        Layout(out_offset=2),
    ],
    ids=str,
)
def test_nothing_beside_out_is_written(case: Case, float32_out: bool, layout: Layout) -> None:
    check(case.with_(float32_out=float32_out), layout)


# --- where inputs come from ---

A_LAYOUTS = {
    "gap of NaN read in place": Layout(a_gap=12),  # k = 100: rows of 224 bytes
    "odd gap": Layout(a_gap=3),
    "odd address": Layout(a_offset=1),
    "address of 8 bytes": Layout(a_offset=4, a_gap=4),
    "address of 16 bytes": Layout(a_offset=8, a_gap=4),
    "every third element": Layout(a_step=3),
    "by columns": Layout(a_by_columns=True),
    "by columns with gaps": Layout(a_by_columns=True, a_gap=5, a_step=2),
}


@pytest.mark.parametrize("case", [Case(m, 72, 100, 32, config=c) for c in NAMED for m in (1, 37)], ids=str)
@pytest.mark.parametrize("layout", A_LAYOUTS.values(), ids=A_LAYOUTS)
def test_nan_beside_strided_activations_does_not_reach_the_result(case: Case, layout: Layout) -> None:
    check(case, layout)


@pytest.mark.parametrize(
    "case",
    [
        Case(40, n, 300, 32, zeros=zeros, bias=True, config=config)
        for config in NAMED
        for zeros in ("float", "float32", "uint8", "int32")
        for n in (136, 131)
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", GROUP_LAYOUTS, ids=str)
def test_nan_past_the_ends_of_scales_zeros_and_bias_does_not_reach_the_result(
    case: Case, layout: Layout
) -> None:
    check(case, layout)


@pytest.mark.parametrize(
    "case", [Case(40, 330, 400, zeros="uint8", bias=True, config=c) for c in NAMED], ids=str
)
def test_cut_of_columns_is_the_cut_result(case: Case) -> None:
    a, b_packed, scales, zeros, bias = on_gpu(*case.arguments())
    whole = cupy.asnumpy(gemm(a, b_packed, scales, zeros, bias=bias, config=case.config))
    for i, j in ((0, 2), (1, 3), (2, 6)):
        cut = slice(64 * i, 64 * j)
        c = gemm(a, b_packed[i:j], scales[:, cut], zeros[:, cut], bias=bias[cut], config=case.config)
        np.testing.assert_array_equal(cupy.asnumpy(c), whole[:, cut])


@pytest.mark.parametrize("case", [Case(40, 200, 600, zeros="uint8", config=c) for c in NAMED], ids=str)
@pytest.mark.parametrize(("i", "j"), [(0, 2), (1, 3), (2, 5)])
def test_cut_of_k_is_the_product_of_the_cut(case: Case, i: int, j: int) -> None:
    arguments = case.arguments()
    a, b_packed, scales, zeros, _ = on_gpu(*arguments)
    rows = slice(128 * i, 128 * j)
    c = gemm(a[:, rows], b_packed[:, i:j], scales[i:j], zeros[i:j], 128, config=case.config)
    part = arguments._replace(
        a=arguments.a[:, rows],
        b_packed=arguments.b_packed[:, i:j],
        scales=arguments.scales[i:j],
        zeros=arguments.zeros[i:j],
    )
    case.with_(k=part.a.shape[1]).check(cupy.asnumpy(c), part)


# --- faults stay where they belong ---


@pytest.mark.parametrize("case", [Case(140, 330, 400, config=config) for config in NAMED], ids=str)
def test_nan_of_one_token_and_infinite_scale_of_one_column_stay_there(case: Case) -> None:
    arguments = case.arguments()
    clean = multiply(case, arguments)
    a, scales = arguments.a.copy(), arguments.scales.copy()
    a[77, 399], scales[3, 65] = np.nan, np.inf
    c = multiply(case, arguments._replace(a=a, scales=scales))
    assert np.isnan(c[77]).all()
    assert not np.isfinite(c[:, 65]).any()
    c[77], c[:, 65] = clean[77], clean[:, 65]
    np.testing.assert_array_equal(c, clean)


# --- shapes ---


@pytest.mark.parametrize("case", [Case(24, 72, 104, bias=True, config=config) for config in NAMED], ids=str)
def test_lead_axes_of_a_become_those_of_the_result(case: Case) -> None:
    arguments = case.arguments()
    a, b_packed, scales, _, bias = on_gpu(*arguments)
    c = cupy.asnumpy(gemm(a, b_packed, scales, bias=bias, config=case.config))
    case.check(c, arguments)
    for shape in ((2, 12), (2, 3, 4), (1, 24, 1)):
        d = gemm(a.reshape(*shape, 104), b_packed, scales, bias=bias, config=case.config)
        np.testing.assert_array_equal(cupy.asnumpy(d), c.reshape(*shape, 72))
    # No one stride walks these rows: they are copied.
    swapped = gemm(a.reshape(4, 6, 104).transpose(1, 0, 2), b_packed, scales, bias=bias, config=case.config)
    np.testing.assert_array_equal(cupy.asnumpy(swapped), c.reshape(4, 6, 72).transpose(1, 0, 2))
    one = gemm(a[7], b_packed, scales, bias=bias, config=case.config)
    np.testing.assert_array_equal(cupy.asnumpy(one), c[7])
    out = Placed(np.zeros((2, 12, 72), np.float16), (12 * 80 * 2, 80 * 2, 2))
    gemm(a.reshape(2, 12, 104), b_packed, scales, bias=bias, config=case.config, out=out.array)
    np.testing.assert_array_equal(out.download(), c.reshape(2, 12, 72))


@pytest.mark.parametrize("config", [None, *NAMED])
@pytest.mark.parametrize(("m", "n", "k"), [(0, 72, 104), (3, 0, 104), (0, 0, 0), (3, 72, 0), (140, 330, 0)])
def test_empty_sizes(config: Any, m: int, n: int, k: int) -> None:
    case = Case(m, n, k, bias=True, config=config)
    a, b_packed, scales, _, bias = case.arguments()
    c = gemm(*on_gpu(a, b_packed, scales), bias=cupy.asarray(bias), config=config)
    assert (c.shape, c.dtype) == ((m, n), np.float16)
    np.testing.assert_array_equal(cupy.asnumpy(c), np.broadcast_to(bias, (m, n)))


# --- arrays of other libraries ---


@pytest.mark.parametrize("case", [Case(40, 136, 300, zeros="uint8", bias=True, config=NAMED[0])], ids=str)
@pytest.mark.parametrize("wrap", [ByInterface, ByDLPack])
def test_foreign_arrays_come_in_and_out_without_a_copy(case: Case, wrap: Any) -> None:
    arguments = case.arguments()
    placed = [Placed(x) for x in arguments]
    out = Placed(poisoned(case))
    *arrays, bias = (wrap(x.array) for x in placed)
    foreign = wrap(out.array)
    assert gemm(*arrays, bias=bias, out=foreign, config=case.config) is foreign
    case.check(out.download(), arguments)
    c = gemm(*arrays, bias=bias, config=case.config)
    assert isinstance(c, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(c), out.download())


@pytest.mark.parametrize("case", [Case(5, 72, 104, config=NAMED[0])], ids=str)
def test_numpy_and_gpu_arrays_are_not_mixed(case: Case) -> None:
    a, b_packed, scales, *_ = case.arguments()
    with pytest.raises(TypeError, match="NumPy and GPU arrays are mixed"):
        gemm(cupy.asarray(a), b_packed, scales)
