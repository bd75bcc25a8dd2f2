"""Everything `gemm` is given, checked: arguments in, a `GemmProblem` and arrays as kernels read them out.

Nothing is launched or written here. The usual call, CuPy arrays of the right dtypes, passes by a few
attribute reads and comparisons; what a message needs is worked out once it is known that there is one.
"""

from __future__ import annotations

import math
import numbers
from types import ModuleType
from typing import Any, NamedTuple

import cupy
import numpy as np

from ._activations import ACTIVATIONS
from ._arrays import as_arrays
from ._check_gpu import check_gpu
from ._check_out import check_apart, check_writable
from ._check_quantized import ALIGN_BYTES, required
from ._config import GemmProblem
from ._gemm_layout import GemmLayout, copied_row_bytes, gemm_layout

#: Other libraries' names for the members of `ACTIVATIONS`.
_OTHER_NAMES = {"swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

_CUPY = cupy.ndarray
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class GemmArguments(NamedTuple):
    """The arguments of one product, checked. (A named tuple: a frozen dataclass takes 2 us longer to make.)

    - `problem`: sizes, group size and dtypes; `xp`: `numpy` or `cupy`, what all arrays belong to.
    - `a`: a view of shape (m, k), or, where its leading axes have no one row stride, the array as it came
      (NumPy's is always (m, k)).
    - `a_in_place`: a tensor map can describe `a`: address and row stride are multiples of 16 bytes, the
      elements of a row are adjacent. `a_row_bytes` is the row stride then (with one row only, one that a map
      takes); otherwise the launch copies `a` into rows of `a_row_bytes` bytes. True for NumPy arrays.
    - `lead_shape`: the result is of shape (*lead_shape, n): () for an `a` of shape (k,).
    - `b_packed`, `scales`, `zeros`, `bias`: the arrays (None for no zeros, no bias); `*_row_bytes`: bytes
      from one row of blocks, scales, zeros to the next, at least those of a dense row (0 without zeros).
    - `alpha`, `activation`: a Python float, a member of `ACTIVATIONS`.
    - `layout`: what shapes, strides and dtypes say, for checks of other arrays with the same ones.
    - `out`: an array to write, of shape (*lead_shape, n), or None; `out_row_bytes`: the bytes from one of its
      m rows to the next (of a C-contiguous result where `out` is None); `out_dtype`: the dtype of the result.
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
    layout: GemmLayout


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
    """The arguments of `gemm` as a `GemmArguments`; TypeError, ValueError, UnsupportedDeviceError otherwise.

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

    if type(alpha) is not float or alpha != 1.0:
        alpha = checked_alpha(alpha)
    if activation is not None:
        check_activation(activation)
    layout = gemm_layout(xp, a, b_packed, scales, zeros, group_size, bias, dtype, out)
    a_in_place, a_row_bytes = layout.a_aligned, layout.a_row_bytes
    if xp is cupy:
        check_gpu(layout, a, b_packed, scales, zeros, bias, out)
        if a_in_place and a.data.ptr % ALIGN_BYTES:
            a_in_place, a_row_bytes = False, copied_row_bytes(layout.problem.k, a.itemsize)
    elif out is not None:
        check_apart(out, a=a, b_packed=b_packed, scales=scales, zeros=zeros, bias=bias)
    if a.ndim != 2 and layout.a_has_rows:
        a = a.reshape(layout.problem.m, layout.problem.k)
    return GemmArguments(
        layout.problem, xp, a, a_in_place, a_row_bytes, layout.lead_shape,
        b_packed, layout.b_row_bytes, scales, layout.scales_row_bytes, zeros, layout.zeros_row_bytes,
        bias, alpha, activation, out, layout.out_row_bytes, layout.out_dtype, layout,
    )  # fmt: skip


def checked_alpha(alpha: Any) -> float:
    """`alpha` as a float; TypeError, ValueError unless it is a number that fits float32."""
    if isinstance(alpha, (bool, np.bool_)) or not isinstance(alpha, numbers.Real):
        raise TypeError(
            f"alpha is of type {type(alpha).__name__}: it must be a Python number, known on the host; pass "
            "float(alpha)"
        )
    try:
        value = float(alpha)
        shown = repr(value)
        fits = not math.isfinite(value) or abs(value) <= _FLOAT32_MAX
    except OverflowError:
        value, shown, fits = math.inf, "an integer of more than 300 digits", False
    if not fits:
        raise ValueError(
            f"alpha is {shown}: it must fit float32, in which products are summed (at most "
            f"{_FLOAT32_MAX:.4g} in magnitude); scale a or the result instead"
        )
    return value


def check_activation(activation: Any) -> None:
    """TypeError, ValueError unless `activation` is the name of one."""
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return
    allowed = ", ".join(repr(name) for name in (None, *ACTIVATIONS))
    if not isinstance(activation, str):
        raise TypeError(f"activation is {activation!r}: it must be the name of one: {allowed}")
    meant = _OTHER_NAMES.get(activation.lower(), activation.lower())
    hint = f"; did you mean {meant!r}?" if meant in ACTIVATIONS else "; apply any other to the result"
    raise ValueError(f"activation is {activation!r}: allowed are {allowed}{hint}")
