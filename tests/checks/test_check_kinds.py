"""Which arrays are taken: NumPy, CuPy, other libraries', no mixture."""

from __future__ import annotations

import cupy
import numpy as np
import pytest
from fake_arrays import (
    ALL,
    BFLOAT16,
    DTYPES,
    GROUP,
    PLACES,
    SIZES,
    DLPackArray,
    InterfaceArray,
    K,
    M,
    check,
    cupy_array,
    has,
    interface,
    message_of,
    numpy_array,
)

from cupy_w4a16._checks import check_gemm


@pytest.mark.parametrize("name", ["a", "b_packed", "scales"])
def test_missing_array(make, name):
    has(message_of(TypeError, make, **{name: None}), f"{name} is None", "an array is needed")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [[[1.0]], 3, "x", np.float16(3)])
def test_not_an_array(make, name, value):
    message = message_of(TypeError, make, **{name: value})
    has(message, f"{name} is of type ", type(value).__qualname__, "numpy.asarray", "__cuda_array_interface__")


@pytest.mark.parametrize("name", [name for name in ALL if name != "a"])
def test_mixture_names_both_sides(name):
    message = message_of(TypeError, numpy_array, **{name: cupy_array(name)})
    has(message, f"{name} (cupy.ndarray)", "a (numpy.ndarray)", "cupy.asarray", "cupy.asnumpy")
    message = message_of(TypeError, cupy_array, **{name: numpy_array(name)})
    has(message, f"{name} (numpy.ndarray)", "a (cupy.ndarray)")


def test_quantized_weight_in_one_piece_says_to_unpack_it(make):
    from cupy_w4a16._quantize import QuantizedWeight

    weight = QuantizedWeight(make("b_packed"), make("scales"), None, GROUP)
    has(message_of(TypeError, make, b_packed=weight), "b_packed is a QuantizedWeight", "gemm(a, *weight)")
    assert check_gemm(make("a"), *weight).problem.group_size == GROUP


def test_masked_array(make):
    message = message_of(TypeError, numpy_array, a=np.ma.masked_array(numpy_array("a")))
    has(message, "a is a masked array", "a.filled")


def test_memory_map_is_a_numpy_array(tmp_path):
    a = np.memmap(tmp_path / "a", np.float16, "w+", shape=(M, K))
    found = check(numpy_array, a=a)
    assert type(found.a) is np.ndarray
    assert np.shares_memory(found.a, a)


@pytest.mark.parametrize("name", ALL)
def test_interface_array_becomes_a_view(views, name):
    found = check(cupy_array, **{name: InterfaceArray(shown=interface(name))})
    view = getattr(found, name)
    assert type(view) is cupy.ndarray
    assert (view.data.ptr, view.shape, view.dtype) == (PLACES[name], SIZES[name], DTYPES[name])
    assert views == ["interface"]


def test_interface_array_without_a_name_for_bfloat16(views):
    half = {name: cupy_array(name, dtype=BFLOAT16) for name in ("a", "scales")}
    shown = interface("bias", typestr="<V2")
    found = check(cupy_array, **half, bias=InterfaceArray(shown=shown, dtype="torch.bfloat16"))
    assert found.bias.dtype == BFLOAT16
    with pytest.raises(TypeError, match=r"bias is \|V2"):
        check(cupy_array, **half, bias=InterfaceArray(shown=shown))


@pytest.mark.parametrize("device_type", [2, 13])
def test_dlpack_comes_first_for_gpu_arrays(views, device_type, monkeypatch):
    monkeypatch.setattr(DLPackArray, "__dlpack__", lambda self, **_: None)
    view = cupy_array("a")
    found = check(cupy_array, a=DLPackArray(device=(device_type, 0), view=view))
    assert found.a is view
    assert views == ["dlpack"]


def test_dlpack_array_that_refuses_says_why(views):
    message = message_of(TypeError, cupy_array, a=DLPackArray(device=(2, 0)))
    has(message, "a is a ", "DLPackArray", "require gradient", "a.detach()")


def test_interface_serves_where_dlpack_refuses(views):
    class Both(DLPackArray, InterfaceArray):
        pass

    found = check(cupy_array, a=Both(device=(2, 0), shown=interface("a")))
    assert found.a.data.ptr == PLACES["a"]
    assert views == ["dlpack", "interface"]


def test_interface_array_that_refuses_says_why(views):
    refusing = InterfaceArray(shown=RuntimeError("Can't get it on a Variable that requires grad"))
    has(
        message_of(TypeError, cupy_array, scales=refusing), "scales is a ", "requires grad", "scales.detach()"
    )


def test_host_and_other_devices_of_dlpack(views):
    has(
        message_of(TypeError, numpy_array, a=DLPackArray(device=(1, 0))),
        "a is a ",
        "host memory",
        "numpy.from_dlpack(a)",
    )
    has(message_of(TypeError, cupy_array, a=DLPackArray(device=(10, 0))), "a is a ", "no CUDA GPU", "type 10")
    assert views == []


def test_numpy_is_looked_at_before_dlpack(views):
    assert hasattr(numpy_array("a"), "__dlpack_device__")
    assert check(numpy_array).xp is np
    assert views == []


def test_mixture_names_the_foreign_type(views):
    message = message_of(TypeError, numpy_array, a=InterfaceArray(shown=interface("a")))
    has(message, "InterfaceArray", "b_packed (numpy.ndarray)")
