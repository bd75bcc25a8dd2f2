"""Good arguments to spoil one at a time: arrays of all kinds, without a GPU.

The GPU arrays are real `cupy.ndarray` objects over addresses that nothing reads: the checks look at places,
shapes, strides and dtypes only. `Gpu` stands for the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.fake_driver import on_gpu

from cupy_w4a16._check_quantized import check_quantized
from cupy_w4a16._checks import check_gemm

M, N, K, GROUP = 5, 192, 256, 64
ROWS = K // GROUP
SIZES = {
    "a": (M, K),
    "b_packed": (3, 2, 1024),
    "scales": (ROWS, N),
    "zeros": (ROWS, N),
    "bias": (N,),
    "out": (M, N),
}
DTYPES = {"a": "f2", "b_packed": "i4", "scales": "f2", "zeros": "u1", "bias": "f2", "out": "f2"}
ALL = tuple(SIZES)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
#: Addresses of the fake GPU arrays, far apart from one another and from 0.
PLACES = {name: (1 << 40) + (i << 30) for i, name in enumerate(ALL)}


class Gpu:
    """Replaces what the checks ask the driver: the current device, and what kind each device is."""

    def __init__(self) -> None:
        self.current = 0
        self.kinds = {0: ("NVIDIA H100 80GB HBM3", 9, 0), 1: ("NVIDIA H200", 9, 0)}
        self.questions = 0

    def properties(self, device: int) -> dict[str, Any]:
        self.questions += 1
        name, major, minor = self.kinds[device]
        return {"name": name.encode(), "major": major, "minor": minor}


def numpy_array(name: str, shape: Any = None, dtype: Any = None) -> Any:
    return np.zeros(SIZES[name] if shape is None else shape, dtype or DTYPES[name])


def cupy_array(name: str, shape: Any = None, dtype: Any = None, **where: Any) -> Any:
    where.setdefault("at", PLACES[name])
    return on_gpu(SIZES[name] if shape is None else shape, dtype or DTYPES[name], **where)


MAKERS = {"numpy": numpy_array, "cupy": cupy_array}


def arguments(make: Callable[..., Any], *names: str, **changed: Any) -> dict[str, Any]:
    """Good arguments, those of `names` (all three required ones if none), with some replaced."""
    return {name: make(name) for name in {"a", "b_packed", "scales", *names}} | changed


def check(make: Callable[..., Any], *names: str, **changed: Any) -> Any:
    return check_gemm(**arguments(make, *names, **changed))


def message_of(error: type[Exception], make: Callable[..., Any], *names: str, **changed: Any) -> str:
    """The message of the error that these arguments raise, of exactly this type."""
    with pytest.raises(error) as caught:
        check(make, *names, **changed)
    assert caught.type is error
    return str(caught.value)


def has(message: str, *parts: str) -> None:
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} missing in: {message}"


def quantized_message(error: type[Exception], *given: Any, **named: Any) -> str:
    """The message of the error that `check_quantized` raises, of exactly this type."""
    with pytest.raises(error) as caught:
        check_quantized(*given, **named)
    assert caught.type is error
    return str(caught.value)


class Foreign:
    """Another library's array: what it shows is given."""

    def __init__(self, **shown: Any) -> None:
        self.__dict__.update(shown)


class InterfaceArray(Foreign):
    """Speaks the CUDA array interface."""

    shown: Any

    @property
    def __cuda_array_interface__(self) -> Any:
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown


class DLPackArray(Foreign):
    """Speaks DLPack."""

    device: Any

    def __dlpack_device__(self) -> Any:
        return self.device

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("Can't export tensors that require gradient")


def interface(name: str, **changed: Any) -> dict[str, Any]:
    shown = {
        "shape": SIZES[name],
        "typestr": np.dtype(DTYPES[name]).str,
        "data": (PLACES[name], False),
        "version": 3,
    }
    return shown | changed
