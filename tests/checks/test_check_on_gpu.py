"""The same checks on a real GPU: other libraries' arrays really come in without a copy."""

from __future__ import annotations

import cupy
import numpy as np
import pytest
from fake_arrays import BFLOAT16, DTYPES, SIZES
from helpers.foreign_arrays import ByDLPack, ByInterface

from cupy_w4a16._checks import check_gemm

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("foreign", [ByDLPack, ByInterface])
def test_foreign_arrays_are_views(foreign):
    arrays = {name: cupy.zeros(shape, DTYPES[name]) for name, shape in SIZES.items()}
    found = check_gemm(**{name: foreign(x) for name, x in arrays.items()})
    for name, x in arrays.items():
        view = getattr(found, name)
        assert type(view) is cupy.ndarray
        assert (view.data.ptr, view.shape, view.strides, view.dtype) == (
            x.data.ptr,
            x.shape,
            x.strides,
            x.dtype,
        )


def test_foreign_bfloat16_is_a_view():
    arrays = {name: cupy.zeros(SIZES[name], BFLOAT16) for name in ("a", "scales")}
    found = check_gemm(
        a=ByInterface(arrays["a"], dtype=BFLOAT16),
        scales=ByInterface(arrays["scales"], dtype=BFLOAT16),
        b_packed=cupy.zeros(SIZES["b_packed"], "i4"),
    )
    assert (found.a.dtype, found.a.data.ptr) == (BFLOAT16, arrays["a"].data.ptr)
    assert found.problem.dtype == "bfloat16"


def test_real_arrays_are_told_apart_and_together():
    arrays = {name: cupy.zeros(shape, DTYPES[name]) for name, shape in SIZES.items()}
    assert check_gemm(**arrays).a_in_place
    buffer = cupy.zeros((SIZES["a"][0], SIZES["a"][1] + SIZES["out"][1]), np.float16)
    k = SIZES["a"][1]
    check_gemm(**arrays | {"a": buffer[:, :k], "out": buffer[:, k:]})
    with pytest.raises(ValueError, match="out overlaps a"):
        check_gemm(**arrays | {"a": buffer[:, :k], "out": buffer[:, k - 1 : -1]})
