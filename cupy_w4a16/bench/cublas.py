"""cuBLAS as the one to beat: half precision, float32 accumulation, and a workspace of its own.

`cupy.matmul` calls the same `cublasGemmEx`, but CuPy refuses it while a graph is captured, and without a
workspace of the caller's cuBLAS may put nodes that allocate and free memory into the graph
(https://docs.nvidia.com/cuda/cublas/#cuda-graphs-support). That would be timed as cuBLAS's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from . import BenchError

# What NVIDIA recommends for Hopper: https://docs.nvidia.com/cuda/cublas/#cublassetworkspace
WORKSPACE_BYTES = 32 << 20

_NO_TRANSPOSE, _TRANSPOSE = 0, 1  # cublasOperation_t
_DATA_TYPES = {"float16": 2, "bfloat16": 14, "float32": 0}  # cudaDataType_t
_COMPUTE_32F = 68  # cublasComputeType_t
_DEFAULT_ALGORITHM = -1  # cublasGemmAlgo_t


class Blas:
    """A cuBLAS handle bound to one CuPy stream."""

    def __init__(self, stream: Any) -> None:
        import cupy

        self._stream = stream
        self._workspace = cupy.empty(WORKSPACE_BYTES, "uint8")
        self._one, self._zero = ctypes.c_float(1), ctypes.c_float(0)
        self._handle = ctypes.c_void_p()
        _check(_library().cublasCreate_v2(ctypes.byref(self._handle)), "creating a handle")
        _check(_library().cublasSetStream_v2(self._handle, ctypes.c_void_p(stream.ptr)), "setting the stream")
        _check(
            _library().cublasSetWorkspace_v2(
                self._handle, ctypes.c_void_p(self._workspace.data.ptr), ctypes.c_size_t(WORKSPACE_BYTES)
            ),
            "setting the workspace",
        )

    def __enter__(self) -> Blas:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close, but not after an error, such as a kernel that hangs: closing would wait for it."""
        if kind is None:
            self.close()

    def close(self) -> None:
        self._stream.synchronize()
        _library().cublasDestroy_v2(self._handle)

    def matmul(self, a: Any, w: Any, out: Any) -> Callable[[], None]:
        """A call that writes `a (m, k) @ w (k, n)` to `out`; `w` may be the transpose of an (n, k) array."""
        m, k = a.shape
        n = w.shape[1]
        along_n = w.strides[1] == w.itemsize
        # cuBLAS counts columns first: it computes out.T (n, m) = w.T @ a.T from the same memory.
        arguments = (
            self._handle, _NO_TRANSPOSE if along_n else _TRANSPOSE, _NO_TRANSPOSE, n, m, k,
            ctypes.byref(self._one), *_matrix(w, w.strides[0 if along_n else 1]), *_matrix(a, a.strides[0]),
            ctypes.byref(self._zero), *_matrix(out, out.strides[0]), _COMPUTE_32F, _DEFAULT_ALGORITHM,
        )  # fmt: skip
        gemm_ex = _library().cublasGemmEx

        def call() -> None:
            _check(gemm_ex(*arguments), f"multiplying {a.shape} by {w.shape}")

        return call


def version() -> str:
    """cuBLAS's version, such as "13.1.0"."""
    words = []
    for part in range(3):  # libraryPropertyType: major, minor, patch
        value = ctypes.c_int()
        _check(_library().cublasGetProperty(part, ctypes.byref(value)), "asking its version")
        words.append(str(value.value))
    return ".".join(words)


@cache
def _library() -> ctypes.CDLL:
    """The cuBLAS that CuPy has loaded, or would load."""
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib

    try:
        found = load_nvidia_dynamic_lib("cublas")
    except DynamicLibNotFoundError as error:
        raise BenchError(
            "cuBLAS is not installed, and bench and tune need it. The extra [bench] brings it: pip install "
            "nvidia-cublas-cu12 (for CUDA 13: nvidia-cublas)"
        ) from error
    return ctypes.CDLL(found.abs_path)


def _matrix(x: Any, row_bytes: int) -> tuple[Any, int, int]:
    return ctypes.c_void_p(x.data.ptr), _DATA_TYPES[x.dtype.name], row_bytes // x.itemsize


def _check(status: int, doing: str) -> None:
    if status:
        raise BenchError(f"cuBLAS failed {doing}: status {status} of cublasStatus_t")
