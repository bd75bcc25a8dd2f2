"""The three calls of the CUDA driver that CuPy does not offer: tensor maps, launches with attributes, occupancy.

The driver is the one CuPy has already initialised; nothing here creates a context.
"""

from __future__ import annotations

import ctypes
from functools import cache

from ._errors import W4A16Error

TENSOR_MAP_BYTES = 128
TENSOR_MAP_ALIGNMENT = 64

# CUtensorMapDataType
_DATA_TYPES = {"float16": 6, "float32": 7, "bfloat16": 9}
_ITEM_BYTES = {"float16": 2, "float32": 4, "bfloat16": 2}
_SWIZZLE_128B = 3
_PROMOTE_L2_256B = 3

# CUlaunchAttributeID
_ATTRIBUTE_CLUSTER_DIMENSION = 4
_ATTRIBUTE_PROGRAMMATIC_SERIALIZATION = 6


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
        ("attributes", ctypes.POINTER(LaunchAttribute)),
        ("num_attributes", ctypes.c_uint),
    ]


def cluster_attribute(size: int) -> LaunchAttribute:
    """The attribute of a launch in clusters of `size` CTAs along x."""
    attribute = LaunchAttribute(id=_ATTRIBUTE_CLUSTER_DIMENSION)
    attribute.value.dims[:] = (size, 1, 1)
    return attribute


@cache
def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise W4A16Error(f"the CUDA driver, libcuda.so.1, can't be loaded ({error}): install the NVIDIA driver") from error


def check(status: int, doing: str) -> None:
    """Raises W4A16Error with the driver's own words where `status` is an error."""
    if status:
        text = ctypes.c_char_p()
        _library().cuGetErrorString(status, ctypes.byref(text))
        reason = (text.value or b"unknown error").decode()
        raise W4A16Error(f"the CUDA driver failed {doing}: {reason} (error {status})")


def encode_tensor_map(
    tensor_map: int, address: int, dtype: str, shape: tuple[int, int], row_bytes: int, box: tuple[int, int]
) -> None:
    """Writes the tensor map of a row-major matrix to host address `tensor_map`, 128 bytes at a multiple of 64.

    `shape` is (rows, columns) in elements, `box` (rows, columns) of one copy; a box's rows are 128 bytes, swizzled.
    Reads past the shape give zeros, writes past it are dropped.
    """
    rows, columns = shape
    status = _library().cuTensorMapEncodeTiled(
        ctypes.c_void_p(tensor_map),
        _DATA_TYPES[dtype],
        2,
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * 2)(columns, rows),
        (ctypes.c_uint64 * 1)(row_bytes),
        (ctypes.c_uint32 * 2)(box[1], box[0]),
        (ctypes.c_uint32 * 2)(1, 1),
        0,
        _SWIZZLE_128B,
        _PROMOTE_L2_256B,
        0,
    )
    check(status, f"describing a matrix of {rows} x {columns} {dtype} with rows {row_bytes} bytes apart")


def launch(function: int, config: LaunchConfig, parameters: ctypes.Array[ctypes.c_void_p], name: str) -> None:
    """cuLaunchKernelEx; `parameters` holds the addresses of the kernel's arguments."""
    status = _library().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(function), parameters, None)
    if status:
        check(status, f"launching {name}")


def max_active_clusters(function: int, config: LaunchConfig) -> int:
    """Clusters of this launch that fit the GPU at once."""
    count = ctypes.c_int()
    status = _library().cuOccupancyMaxActiveClusters(
        ctypes.byref(count), ctypes.c_void_p(function), ctypes.byref(config)
    )
    check(status, "counting active clusters")
    return count.value
