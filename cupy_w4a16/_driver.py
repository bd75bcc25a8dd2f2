"""The calls of the CUDA driver that CuPy does not offer: tensor maps, launches with attributes, clusters.

The driver is the one CuPy has already initialised; nothing here creates a context. Arguments of frequent
calls are prebuilt: ctypes takes 0.2 us for a call with arguments of its own types, 0.4 us where it converts.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from ._errors import W4A16Error

TENSOR_MAP_ALIGNMENT = 64

#: CUresult: the calling thread has made no CUDA call that gives it a context.
INVALID_CONTEXT = 201

# CUtensorMapDataType
_DATA_TYPES = {"uint8": 0, "int8": 0, "int32": 3, "float16": 6, "float32": 7, "bfloat16": 9}
_SWIZZLE_NONE, _SWIZZLE_128B = 0, 3
_PROMOTE_L2_256B = 3

# CUlaunchAttributeID
_ATTRIBUTE_CLUSTER_DIMENSION = 4
_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6


class _AttributeValue(ctypes.Union):
    _fields_ = [("pad", ctypes.c_char * 64), ("dims", ctypes.c_uint * 3), ("flag", ctypes.c_int)]


class LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", _AttributeValue)]


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("smem_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),  # the address of `num_attributes` of LaunchAttribute
        ("num_attributes", ctypes.c_uint),
    ]


def cluster_attribute(size: int) -> LaunchAttribute:
    """The attribute of a launch in clusters of `size` CTAs along x."""
    attribute = LaunchAttribute(id=_ATTRIBUTE_CLUSTER_DIMENSION)
    attribute.value.dims[:] = (size, 1, 1)
    return attribute


def dependent_attribute() -> LaunchAttribute:
    """The attribute of a launch that may start before the kernel ahead of it in the stream has finished."""
    attribute = LaunchAttribute(id=_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
    attribute.value.flag = 1
    return attribute


@cache
def library() -> Any:
    """libcuda. Its functions have no `argtypes`: arguments are ctypes objects, or integers of 32 bits."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise W4A16Error(
            f"the CUDA driver, libcuda.so.1, can't be loaded ({error}): install the NVIDIA driver"
        ) from error


def check(status: int, doing: str) -> None:
    """Raises W4A16Error with the driver's own words where `status` is an error."""
    if status:
        text = ctypes.c_char_p()
        library().cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"unknown error").decode()
        raise W4A16Error(f"the CUDA driver failed {doing}: {reason} (error {status})")


class MatrixMap:
    """How the copy engine walks a row-major matrix: all of a tensor map but the address.

    `shape` is (rows, columns) in elements, `box` (rows, columns) of one copy; `swizzled` boxes have rows of
    128 bytes. Reads past the shape give zeros, writes past it are dropped.
    """

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, int],
        row_bytes: int,
        box: tuple[int, int],
        *,
        swizzled: bool = True,
    ) -> None:
        self._encode = library().cuTensorMapEncodeTiled
        self._described = f"a matrix of {shape[0]} x {shape[1]} {dtype} with rows {row_bytes} bytes apart"
        self._type_and_rank = (_DATA_TYPES[dtype], 2)
        self._rest = (
            (ctypes.c_uint64 * 2)(shape[1], shape[0]),
            (ctypes.c_uint64 * 1)(row_bytes),
            (ctypes.c_uint32 * 2)(box[1], box[0]),
            (ctypes.c_uint32 * 2)(1, 1),
            0,  # not interleaved
            _SWIZZLE_128B if swizzled else _SWIZZLE_NONE,
            _PROMOTE_L2_256B,
            0,  # zeros past the shape
        )

    def write(self, tensor_map: Any, address: int) -> None:
        """Encode the map of the matrix at GPU address `address` into memory at a multiple of 64."""
        status = self._encode(tensor_map, *self._type_and_rank, ctypes.c_void_p(address), *self._rest)
        if status:
            check(status, f"describing {self._described}")


def max_active_clusters(function: int, config: LaunchConfig) -> int:
    """Clusters of this launch that fit the GPU at once."""
    count = ctypes.c_int()
    status = library().cuOccupancyMaxActiveClusters(
        ctypes.byref(count), ctypes.c_void_p(function), ctypes.byref(config)
    )
    check(status, "counting active clusters")
    return count.value
