"""Everything `gemm` is given, checked: arguments in, a `GemmProblem` and arrays as kernels read them out.

Nothing is launched or written here. The usual call, CuPy arrays of the right dtypes, passes by a few
attribute reads and comparisons; what a message needs is worked out once it is known that there is one.
"""

from __future__ import annotations

import functools
import math
import numbers
from types import ModuleType
from typing import Any, NamedTuple

import cupy
import numpy as np

from . import _device
from ._activations import ACTIVATIONS
from ._arrays import as_arrays, row_bytes_of, share_bytes
from ._check_out import check_writable, dtype_of_result, row_bytes_of_out
from ._check_quantized import (
    ALIGN_BYTES,
    QuantizedArguments,
    check_alignment,
    check_quantized,
    check_weight,
    required,
    wrong_dtype,
)
from ._config import GemmProblem
from ._dtypes import FLOAT32, HALF_DTYPES
from ._pack import BLOCK_N

__all__ = ["GemmArguments", "QuantizedArguments", "check_gemm", "check_quantized"]

#: Other libraries' names for the members of `ACTIVATIONS`.
_OTHER_NAMES = {"swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

_CUPY = cupy.ndarray
_NAMES = {dtype: dtype.name for dtype in (*HALF_DTYPES, FLOAT32)}
_FLOAT32_MAX = float(np.finfo(np.float32).max)
#: Problems repeat: a model has some dozens of weights and a few hundred batch sizes.
_problem = functools.lru_cache(maxsize=4096)(GemmProblem)


class GemmArguments(NamedTuple):
    """The arguments of one product, checked. (A named tuple: a frozen dataclass takes 2 us longer to make.)

    - `problem`: sizes, group size and dtypes; `xp`: `numpy` or `cupy`, what all arrays belong to.
    - `a`: a view of shape (m, k), or, where its leading axes have no one row stride, the array as it came
      (NumPy's is always (m, k)).
    - `a_in_place`: a tensor map can describe `a`: address and row stride are multiples of 16 bytes, the elements
      of a row are adjacent. `a_row_bytes` is the row stride then (where there is one row, one that a map takes);
      otherwise the launch copies `a` into rows of `a_row_bytes` bytes. True for NumPy arrays.
    - `lead_shape`: the result is of shape (*lead_shape, n): () for an `a` of shape (k,).
    - `b_packed`, `scales`, `zeros`, `bias`: the arrays (None for no zeros, no bias); `*_row_bytes`: bytes from
      one row of blocks, scales, zeros to the next, at least those of a dense row (0 without zeros).
    - `alpha`, `activation`: a Python float, a member of `ACTIVATIONS`.
    - `out`: an array to write, of shape (*lead_shape, n), or None; `out_row_bytes`: the bytes from one of its m
      rows to the next (of a C-contiguous result where `out` is None); `out_dtype`: the dtype of the result.
    """

    problem: GemmProblem
    xp: ModuleType
    a: Any
    a_in_place: bool
    a_row_bytes: int
    lead_shape: tuple[int, ...]
    b_packed: Any
    b_row_bytes: int
    scales: Any
    scales_row_bytes: int
    zeros: Any
    zeros_row_bytes: int
    bias: Any
    alpha: float
    activation: str | None
    out: Any
    out_row_bytes: int
    out_dtype: np.dtype[Any]


def check_gemm(
    a: Any,
    b_packed: Any,
    scales: Any,
    zeros: Any = None,
    group_size: int | None = None,
    *,
    bias: Any = None,
    alpha: float = 1.0,
    activation: str | None = None,
    dtype: Any = None,
    out: Any = None,
) -> GemmArguments:
    """The arguments of `gemm` as a `GemmArguments`; TypeError, ValueError or UnsupportedDeviceError otherwise.

    `out` is seen through a view where it belongs to another library: `gemm` returns the object it was given.
    """
    if (
        type(a) is type(b_packed) is type(scales) is _CUPY
        and (zeros is None or type(zeros) is _CUPY)
        and (bias is None or type(bias) is _CUPY)
        and (out is None or type(out) is _CUPY)
    ):
        xp = cupy
    else:
        required(a=a, b_packed=b_packed, scales=scales)
        check_writable(out)
        xp, (a, b_packed, scales, zeros, bias, out) = as_arrays(
            {"a": a, "b_packed": b_packed, "scales": scales, "zeros": zeros, "bias": bias, "out": out}
        )

    a_dtype = a.dtype
    if a_dtype not in HALF_DTYPES:
        wrong_dtype("a", a, xp)
    a_shape = a.shape
    if not a_shape:
        raise ValueError("a is of shape (): it must be (k,), (m, k) or (..., m, k); reshape it")
    weight = check_weight(xp, b_packed, scales, zeros, group_size, a_shape[-1], a)
    n = weight.n
    if bias is not None:
        _check_bias(bias, n, a, xp)
    if type(alpha) is not float or alpha != 1.0:
        alpha = _checked_alpha(alpha)
    if activation is not None and activation not in ACTIVATIONS:
        _wrong_activation(activation)

    lead_shape = a_shape[:-1]
    a, m, a_in_place, a_row_bytes = _rows_of_a(a, a_shape, xp)
    out_dtype = a_dtype if dtype is None and out is None else dtype_of_result(dtype, out, a_dtype, xp)
    out_row_bytes = n * out_dtype.itemsize
    if out is not None:
        out_row_bytes = row_bytes_of_out(out, (*lead_shape, n), m)
    names = _NAMES[a_dtype], weight.zeros_dtype, _NAMES[out_dtype]
    problem = _problem(m, n, weight.k, weight.group_size, *names)
    arguments = GemmArguments(
        problem, xp, a, a_in_place, a_row_bytes, lead_shape, b_packed, weight.b_row_bytes,
        scales, weight.scales_row_bytes, zeros, weight.zeros_row_bytes,
        bias, alpha, activation, out, out_row_bytes, out_dtype,
    )  # fmt: skip
    if xp is cupy:
        _check_gpu(arguments)
    if out is not None:
        _check_out_apart(arguments)
    return arguments


def _rows_of_a(a: Any, shape: tuple[int, ...], xp: ModuleType) -> tuple[Any, int, bool, int]:
    """`a` as rows where that takes no copy; m; whether a tensor map can describe it; the bytes of a row."""
    k = shape[-1]
    dense = 2 * k
    copied = -(-dense // ALIGN_BYTES) * ALIGN_BYTES
    if len(shape) == 2:
        m = shape[0]
        row, inner = a.strides
    else:
        m = math.prod(shape[:-1])
        if xp is np:
            return a.reshape(m, k), m, True, dense
        row, inner = row_bytes_of(shape, a.strides), a.strides[-1]
        if row is None:
            return a, m, False, copied
        a = a.reshape(m, k)
    if m <= 1:
        row = copied  # there is no second row to step to, so any step will do
    if xp is np:
        return a, m, True, row
    if (inner == 2 or k <= 1) and row >= dense and not row % ALIGN_BYTES and not a.data.ptr % ALIGN_BYTES:
        return a, m, True, row
    return a, m, False, copied


def _check_bias(bias: Any, n: int, a: Any, xp: ModuleType) -> None:
    if bias.dtype != a.dtype:
        wrong_dtype("bias", bias, xp, a)
    if bias.shape != (n,):
        hint = "pass bias.reshape(-1)" if bias.size == n else "one value for each column of scales is needed"
        raise ValueError(f"bias is of shape {bias.shape}: it must be (n,) = ({n},); {hint}")
    if n > 1 and bias.strides[0] != bias.dtype.itemsize:
        raise ValueError(
            f"bias has a stride of {bias.strides[0]} bytes: it must be contiguous; pass "
            f"{xp.__name__}.ascontiguousarray(bias)"
        )


def _checked_alpha(alpha: Any) -> float:
    if isinstance(alpha, (bool, np.bool_)) or not isinstance(alpha, numbers.Real):
        raise TypeError(
            f"alpha is of type {type(alpha).__name__}: it must be a Python number, known on the host; pass "
            "float(alpha)"
        )
    try:
        value = float(alpha)
    except OverflowError:
        value = math.copysign(math.inf, alpha)
        finite = True
    else:
        finite = math.isfinite(value)
    if finite and abs(value) > _FLOAT32_MAX:
        raise ValueError(
            f"alpha is {alpha}: it must fit float32, in which products are summed (at most "
            f"{_FLOAT32_MAX:.4g} in magnitude); scale a or the result instead"
        )
    return value


def _wrong_activation(activation: Any) -> None:
    allowed = ", ".join(repr(name) for name in (None, *ACTIVATIONS))
    if not isinstance(activation, str):
        raise TypeError(f"activation is {activation!r}: it must be the name of one: {allowed}")
    meant = _OTHER_NAMES.get(activation.lower(), activation.lower())
    hint = f"; did you mean {meant!r}?" if meant in ACTIVATIONS else "; apply any other to the result"
    raise ValueError(f"activation is {activation!r}: allowed are {allowed}{hint}")


def _check_gpu(arguments: GemmArguments) -> None:
    """All arrays on the current device, at addresses that it can load from, and the device a Hopper."""
    a, b_packed, scales, zeros = arguments.a, arguments.b_packed, arguments.scales, arguments.zeros
    bias, out = arguments.bias, arguments.out
    at_a, at_b, at_scales = a.data, b_packed.data, scales.data
    device = _device.current_device()
    wrong_device = at_a.device_id != device or at_b.device_id != device or at_scales.device_id != device
    misaligned = (at_a.ptr | at_scales.ptr | arguments.scales_row_bytes) & 1 or at_b.ptr % ALIGN_BYTES
    misaligned = misaligned or not arguments.a_in_place
    for x, row_bytes in ((zeros, arguments.zeros_row_bytes), (bias, 0), (out, arguments.out_row_bytes)):
        if x is not None:
            at = x.data
            wrong_device = wrong_device or at.device_id != device
            misaligned = misaligned or (at.ptr | row_bytes) & (x.itemsize - 1)
    if wrong_device or misaligned:  # or maybe: now look closely
        named = {"a": a, "b_packed": b_packed, "scales": scales, "zeros": zeros, "bias": bias, "out": out}
        _device.check_current_device(device, named)
        check_alignment(**named)
    _device.check_hopper(device)


def _check_out_apart(arguments: GemmArguments) -> None:
    """ValueError where `out` shares a byte with an input: kernels read inputs while they write `out`.

    GPU arrays whose ranges of addresses are apart are told at once; others (rows of `out` between rows of `a`
    in one buffer) are compared exactly, strides and all, so that only arrays that really meet are refused.
    """
    problem = arguments.problem
    m, n, k, group_size = problem.m, problem.n, problem.k, problem.group_size
    if not m or not n:
        return
    out, zeros, bias = arguments.out, arguments.zeros, arguments.bias
    rows = 1 if group_size == -1 else -(-k // group_size)
    on_gpu = arguments.xp is cupy
    low = out.data.ptr if on_gpu else 0
    high = low + m * arguments.out_row_bytes
    for name, x, reach_bytes in (
        ("a", arguments.a, m * arguments.a_row_bytes if arguments.a_in_place else None),
        ("b_packed", arguments.b_packed, -(-n // BLOCK_N) * arguments.b_row_bytes),
        ("scales", arguments.scales, rows * arguments.scales_row_bytes),
        ("zeros", zeros, rows * arguments.zeros_row_bytes),
        ("bias", bias, 2 * n),
    ):
        if x is None:
            continue
        if on_gpu and reach_bytes is not None:
            start = x.data.ptr
            if start >= high or start + reach_bytes <= low:
                continue
        if share_bytes(out, x):
            raise ValueError(
                f"out overlaps {name} in memory, but inputs are read while out is written: pass an out of "
                "its own, or leave out=None"
            )
