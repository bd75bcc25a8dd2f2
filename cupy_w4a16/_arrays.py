"""Arrays as they come in: whose they are, how their rows lie in memory, which bytes they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import cupy
import numpy as np

from ._dtypes import BFLOAT16

#: DLPack's numbers for memory that a GPU kernel can read in place: CUDA and CUDA managed.
_DLPACK_CPU, _DLPACK_GPU = 1, (2, 13)
#: Steps NumPy may spend on an exact answer whether two strided arrays meet; past them they count as meeting.
_OVERLAP_WORK = 100_000


def as_arrays(given: Mapping[str, Any]) -> tuple[ModuleType, list[Any]]:
    """The library the arguments belong to (`numpy` or `cupy`), and each as an array of it, without a copy.

    Arguments that are None stay None. NumPy arrays are looked at first (they speak DLPack too), then CuPy
    arrays; another library's GPU arrays become CuPy views through DLPack or the CUDA array interface.
    Anything else, and a mixture of NumPy and GPU arrays, is a TypeError that names the argument.
    """
    arrays = [None if x is None else _as_array(name, x) for name, x in given.items()]
    kinds: dict[str, list[str]] = {}
    for (name, x), array in zip(given.items(), arrays, strict=True):
        if array is not None:
            kinds.setdefault("numpy" if isinstance(array, np.ndarray) else "cupy", []).append(
                f"{name} ({type_name(x)})"
            )
    if not kinds:
        raise TypeError(f"{' and '.join(given)} is None: an array is needed")
    if len(kinds) > 1:
        raise TypeError(
            f"NumPy and GPU arrays are mixed: {', '.join(kinds['numpy'])} on the host; "
            f"{', '.join(kinds['cupy'])} on the GPU; all must be of one kind: move the host arrays with "
            "cupy.asarray(...), or the others with cupy.asnumpy(...)"
        )
    return (np if "numpy" in kinds else cupy), arrays


def check_library(xp: Any) -> None:
    """TypeError unless `xp` is the module `numpy` or `cupy`."""
    if xp not in (np, cupy):
        raise TypeError(f"xp is {xp!r}: pass the module numpy or cupy")


def type_name(x: Any) -> str:
    """The type of `x` as a user writes it: `list`, `numpy.ndarray`, `torch.Tensor`."""
    library, name = type(x).__module__.split(".")[0], type(x).__qualname__
    return name if library == "builtins" else f"{library}.{name}"


def _as_array(name: str, x: Any) -> Any:
    if isinstance(x, np.ndarray):
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array: a mask can't be honoured; pass {name}.filled(value)")
        return x if type(x) is np.ndarray else x.view(np.ndarray)
    if isinstance(x, cupy.ndarray):
        return x if type(x) is cupy.ndarray else cupy.ndarray(x.shape, x.dtype, x.data, x.strides)
    device_type = _dlpack_device_type(x)
    if device_type in _DLPACK_GPU or (device_type is None and hasattr(type(x), "__cuda_array_interface__")):
        return _gpu_view(name, x)
    if device_type == _DLPACK_CPU:
        raise TypeError(
            f"{name} is a {type_name(x)} in host memory: pass numpy.from_dlpack({name}) to work on NumPy "
            "arrays, or move it to the GPU first"
        )
    if device_type is not None:
        raise TypeError(
            f"{name} is a {type_name(x)} on a device that is no CUDA GPU (DLPack device type {device_type}): "
            f"pass a NumPy array, a CuPy array or a CUDA array"
        )
    if isinstance(x, tuple) and hasattr(x, "b_packed"):
        raise TypeError(
            f"{name} is a {type(x).__name__}, which is several arguments in one: unpack it with a star, "
            f"gemm(a, *weight)"
        )
    raise TypeError(
        f"{name} is of type {type_name(x)}, not an array: pass a NumPy array (numpy.asarray), a CuPy array, "
        "or another library's GPU array that has DLPack or __cuda_array_interface__"
    )


def _dlpack_device_type(x: Any) -> int | None:
    try:
        return int(x.__dlpack_device__()[0])
    except Exception:  # whatever a foreign class raises here, it only means "does not say"
        return None


def _gpu_view(name: str, x: Any) -> Any:
    """A CuPy view of another library's GPU array: by DLPack, which orders streams, or the array interface."""
    reasons: list[Exception] = []
    if hasattr(x, "__dlpack__"):
        try:
            return cupy.from_dlpack(x)
        except Exception as error:
            reasons.append(error)
    try:
        # The interface has no name for bfloat16: PyTorch writes "two opaque bytes", which CuPy can't view.
        is_bfloat16 = "bfloat16" in str(getattr(x, "dtype", ""))
        view = cupy.asarray(_InterfaceOnly(x, "<u2" if is_bfloat16 else None))
    except Exception as error:
        reason = [*reasons, error][0]
        raise TypeError(
            f"{name} is a {type_name(x)} that can't be read as a GPU array without a copy ({reason}): pass a "
            f"plain GPU array (for a PyTorch tensor that requires gradients, {name}.detach())"
        ) from reason
    return view.view(BFLOAT16) if is_bfloat16 else view


class _InterfaceOnly:
    """Shows CuPy nothing of an array but its CUDA array interface, and keeps the array alive."""

    def __init__(self, owner: Any, typestr: str | None = None) -> None:
        self._owner = owner
        interface = owner.__cuda_array_interface__
        self.__cuda_array_interface__ = {**interface, "typestr": typestr} if typestr else interface


def row_bytes_of(shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """Bytes from one row to the next, all axes but the last walked as one; None where no stride does that.

    With a single row (or none) there is no next one: 0.

    >>> row_bytes_of((2, 3, 8), (48, 16, 2)), row_bytes_of((2, 3, 8), (64, 16, 2)), row_bytes_of((8,), (2,))
    (16, None, 0)
    """
    if 0 in shape:
        return 0
    axes = [(size, stride) for size, stride in zip(shape[:-1], strides[:-1], strict=True) if size != 1]
    if any(outer[1] != inner[0] * inner[1] for outer, inner in pairwise(axes)):
        return None
    return axes[-1][1] if axes else 0


def address_of(x: Any) -> int:
    """The address of an array's first element, on the host or on the GPU."""
    return int(x.ctypes.data if isinstance(x, np.ndarray) else x.data.ptr)


def share_bytes(x: Any, y: Any) -> bool:
    """Whether two arrays share a byte: exact, strides and all, within a bounded search, else yes.

    So an `out` whose rows lie between the rows of `a` in one buffer is told from one that really meets `a`.

    >>> buffer = np.zeros((4, 24), np.float16)
    >>> share_bytes(buffer[:, :16], buffer[:, 16:]), share_bytes(buffer[:, :17], buffer[:, 16:])
    (False, True)
    """
    if math.prod(x.shape) == 0 or math.prod(y.shape) == 0:
        return False
    try:
        return bool(np.shares_memory(_host_twin(x), _host_twin(y), max_work=_OVERLAP_WORK))
    except RuntimeError:  # NumPy's TooHardError
        return True


def _host_twin(x: Any) -> np.ndarray[Any, Any]:
    """A NumPy array of the same address, shape and strides, for arithmetic on them; never read or written."""
    return np.asarray(_AddressOnly(x))


class _AddressOnly:
    def __init__(self, x: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address_of(x), True),
            "shape": tuple(x.shape),
            "strides": tuple(x.strides),
            "typestr": f"|V{x.dtype.itemsize}",
        }
