"""Where arrays lie: overlap, alignment, devices; and layouts remembered from call to call."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
from fake_arrays import (
    ALL,
    BFLOAT16,
    PLACES,
    ROWS,
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
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import _arrays, _device
from cupy_w4a16._check_quantized import check_quantized
from cupy_w4a16._checks import check_gemm
from cupy_w4a16._errors import UnsupportedDeviceError


@pytest.mark.parametrize("name", [name for name in ALL if name != "out"])
@pytest.mark.parametrize("end", ["first", "last"])
def test_out_over_one_byte_of_an_input(name, end):
    given = arguments(cupy_array, *ALL)
    x, out_bytes = given[name], 2 * M * N
    # out's last element over the first bytes of the input, or its first one over the last bytes.
    low, high = x.data.ptr - out_bytes, x.data.ptr + x.nbytes
    meeting, apart = (low + 2, low) if end == "first" else (high - 2, high)
    check_gemm(**given | {"out": cupy_array("out", at=apart)})
    with pytest.raises(ValueError, match=f"out overlaps {name} in memory.*out=None"):
        check_gemm(**given | {"out": cupy_array("out", at=meeting)})


def test_out_is_an_input():
    square = numpy_array("a", (N, N))
    weight = {"b_packed": numpy_array("b_packed"), "scales": numpy_array("scales", (3, N))}
    with pytest.raises(ValueError, match="out overlaps a in memory"):
        check_gemm(square, **weight, out=square)
    with pytest.raises(ValueError, match="out overlaps bias in memory"):
        check_gemm(square.copy(), **weight, bias=square[0], out=square)
    check_gemm(square.copy(), **weight, bias=square[0].copy(), out=square)


def test_out_between_the_rows_of_a(make):
    buffer = make("a", (M, K + N + 8))
    check(make, a=buffer[:, :K], out=buffer[:, K : K + N])
    check(make, a=buffer[:, :K], out=buffer[:, K + 8 :])
    with pytest.raises(ValueError, match="out overlaps a"):
        check(make, a=buffer[:, :K], out=buffer[:, K - 1 : K + N - 1])
    check(make, a=buffer[:, N : K + N], out=buffer[:, :N])
    with pytest.raises(ValueError, match="out overlaps a"):
        check(make, a=buffer[:, N - 1 : K + N - 1], out=buffer[:, :N])


def test_out_over_an_a_that_runs_backwards():
    a = cupy_array("a", strides=(-512, 2))  # reaches from 4 rows below its address to one above
    with pytest.raises(ValueError, match="out overlaps a"):
        check(cupy_array, a=a, out=cupy_array("out", at=PLACES["a"] - 4 * 512))
    check(cupy_array, a=a, out=cupy_array("out", at=PLACES["a"] - 4 * 512 - 2 * M * N))
    check(cupy_array, a=a, out=cupy_array("out", at=PLACES["a"] + 512))


def test_out_over_two_rows_of_a_that_run_backwards():
    a = cupy_array("a", (2, K), strides=(-2 * K, 2))  # the last element is the one before the first
    out = cupy_array("out", (2, N), at=PLACES["a"] - 4 * N)
    with pytest.raises(ValueError, match="out overlaps a"):
        check(cupy_array, a=a, out=out)


def test_empty_out_overlaps_nothing(make):
    a = make("a", (0, K))
    assert check(make, a=a, out=make("out", (0, N))).problem.m == 0


SPAN = st.tuples(
    st.integers(0, 40), st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(1, 3)
)


@given(SPAN, SPAN)
@settings(max_examples=300, deadline=None)
def test_shared_bytes_are_exact_against_a_list_of_bytes(x, y):
    def array_and_bytes(start, rows, columns, row_step, column_step):
        array = on_gpu((rows, columns), "f2", (1 << 20) + 2 * start, (2 * row_step, 2 * column_step))
        return array, {start + r * row_step + c * column_step for r in range(rows) for c in range(columns)}

    (x_array, x_bytes), (y_array, y_bytes) = array_and_bytes(*x), array_and_bytes(*y)
    assert _arrays.share_bytes(x_array, y_array) == bool(x_bytes & y_bytes)


def test_undecided_overlap_counts_as_overlap(monkeypatch):
    def too_hard(*_: Any, **__: Any) -> bool:
        raise RuntimeError("Exceeded max_work")  # numpy.exceptions.TooHardError is one

    monkeypatch.setattr(np, "shares_memory", too_hard)
    assert _arrays.share_bytes(numpy_array("a"), numpy_array("out"))


@pytest.mark.parametrize("name", ALL)
def test_array_on_another_gpu(gpu, name):
    given = arguments(cupy_array, *ALL)
    elsewhere = cupy_array(name, device=1)
    with pytest.raises(ValueError) as caught:
        check_gemm(**given | {name: elsewhere})
    has(
        str(caught.value),
        f"{name} is on GPU 1",
        "current device is GPU 0",
        "cupy.cuda.Device(1)",
        f"cupy.asarray({name})",
    )
    check_gemm(**given)


def test_all_arrays_on_another_gpu(gpu):
    gpu.current = 1
    has(message_of(ValueError, cupy_array), "a is on GPU 0", "current device is GPU 1")
    found = check(lambda name: cupy_array(name, device=1))
    assert found.a.data.device_id == 1


@pytest.mark.parametrize(
    ("device", "capability"),
    [
        (("NVIDIA A100-SXM4-80GB", 8, 0), "8.0"),
        (("NVIDIA B200", 10, 0), "10.0"),
        (("NVIDIA RTX 4090", 8, 9), "8.9"),
    ],
)
def test_gpu_that_is_not_hopper(gpu, device, capability):
    gpu.kinds[0] = device
    message = message_of(UnsupportedDeviceError, cupy_array)
    has(
        message,
        f"GPU 0 is a {device[0]}",
        f"compute capability {capability}",
        "sm_90a",
        "Hopper alone",
        "NumPy arrays",
    )
    message_of(UnsupportedDeviceError, cupy_array)  # it is not remembered as good


@pytest.mark.parametrize(
    ("present", "device", "expected"),
    [(True, ("NVIDIA H100", 9, 0), True), (True, ("NVIDIA B200", 10, 0), False), (False, (), False)],
)
def test_what_examples_run_on(gpu, monkeypatch, present, device, expected):
    monkeypatch.setattr(_device.cupy.cuda, "is_available", lambda: present)
    monkeypatch.setattr(_device, "_hopper_devices", set())
    gpu.kinds[0] = device
    assert _device.has_hopper() is expected
    assert check(numpy_array).xp is np


def test_driver_is_asked_once_for_each_gpu(gpu):
    for _ in range(3):
        check(cupy_array)
    assert gpu.questions == 1


def test_argument_errors_come_before_the_gpu(gpu):
    gpu.kinds[0] = ("NVIDIA A100", 8, 0)
    message_of(TypeError, cupy_array, a=cupy_array("a", dtype="f4"))
    message_of(ValueError, cupy_array, out=cupy_array("out", at=PLACES["a"]))


def test_numpy_arrays_never_ask_for_a_gpu(monkeypatch):
    def driver(*_: Any) -> Any:
        raise AssertionError("CUDA was asked")

    monkeypatch.setattr(_device, "current_device", driver)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", driver)
    check(numpy_array, *ALL)
    check_quantized(numpy_array("b_packed"), numpy_array("scales"))


@pytest.mark.parametrize(
    ("name", "offset", "align"),
    [("a", 1, 2), ("b_packed", 4, 16), ("b_packed", 8, 16), ("scales", 1, 2), ("bias", 1, 2), ("out", 1, 2)],
)
def test_address_that_a_gpu_cannot_load_from(name, offset, align):
    given = arguments(cupy_array, *ALL)
    at = PLACES[name] + offset
    with pytest.raises(ValueError) as caught:
        check_gemm(**given | {name: cupy_array(name, at=at)})
    has(
        str(caught.value),
        f"{name} starts at address {at:#x}",
        f"multiples of {align} bytes",
        f"{name}.copy()",
    )
    check_gemm(**given | {name: cupy_array(name, at=PLACES[name] + align)})


def test_address_of_wide_zeros_and_out():
    for name, dtype in (("zeros", "i4"), ("out", "f4")):
        x = cupy_array(name, dtype=dtype, at=PLACES[name] + 2)
        has(
            message_of(ValueError, cupy_array, **{name: x}),
            f"{name} starts at address",
            "multiples of 4 bytes",
        )
    check(cupy_array, zeros=cupy_array("zeros", at=PLACES["zeros"] + 1))  # bytes lie anywhere


def test_strides_inside_elements():
    message = message_of(ValueError, cupy_array, a=cupy_array("a", strides=(513, 2)))
    has(message, "a has strides (513, 2)", "2 bytes an element")
    message_of(ValueError, cupy_array, out=cupy_array("out", strides=(2 * N + 1, 2)))
    message_of(ValueError, cupy_array, scales=cupy_array("scales", strides=(2 * N + 1, 2)))


def test_good_call_makes_no_bad_one_pass():
    check(cupy_array, *ALL)
    message_of(TypeError, cupy_array, *ALL, scales=cupy_array("scales", dtype=BFLOAT16))
    message_of(ValueError, cupy_array, *ALL, scales=cupy_array("scales", (ROWS - 1, N)))
    message_of(TypeError, cupy_array, *ALL, dtype="float64")
    message_of(ValueError, cupy_array, *ALL, bias=cupy_array("bias", (N,), strides=(4,)))
    message_of(ValueError, cupy_array, *ALL, b_packed=cupy_array("b_packed", strides=(8192, 4096, 8)))
    message_of(ValueError, cupy_array, *ALL, out=cupy_array("out", at=PLACES["scales"]))
    message_of(ValueError, cupy_array, *ALL, zeros=cupy_array("zeros", (ROWS, N), strides=(N, 2)))


def test_unhashable_dtype_is_an_error_about_dtype():
    has(message_of(TypeError, cupy_array, dtype=[np.float16]), "dtype is [<class 'numpy.float16'>]")
