"""`gemm`: a usual call finds its plan and its launch by what it is given; others are made usual first."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._bounded import Bounded
from ._check_config import check_config
from ._check_gpu import check_gpu
from ._check_quantized import ALIGN_BYTES
from ._checks import GemmArguments, check_gemm
from ._choice import config_for
from ._config import GemmConfig
from ._launch import Plan, finish
from ._pdl import check_pdl, wanted
from ._reference import gemm_numpy
from ._workspace import aligned_copy, check_workspace

_ARRAY = cupy.ndarray
_INPUTS = ("a", "b_packed", "scales", "zeros", "bias")
_INTEGER_OR_NONE = (int, type(None))  # others can be equal to integers, but not allowed: True, 128.0
_get_device = cupy.cuda.runtime.getDevice
_get_stream = cupy.cuda.get_current_stream

# Plans by what shapes, strides, dtypes and options say; launches by plan, stream and addresses (2 KB each).
_plans = Bounded(1024)
_launches = Bounded(4096)


def gemm(
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
    config: GemmConfig | None = None,
    workspace: Any = None,
    pdl: bool = False,
) -> Any:
    """Multiply 16-bit activations by packed 4-bit weights: `activation(alpha * (a @ w) + bias)`.

    `w (k, n) = (q - zeros) * scales`, one scale and zero for each group of `group_size` rows and each column.
    NumPy arrays are multiplied by NumPy; CuPy arrays, and other GPU arrays through DLPack or the CUDA array
    interface, by a Hopper kernel on CuPy's current stream.

    Parameters
    ----------
    a : array (..., m, k) or (k,), float16 or bfloat16
        Activations, as in `numpy.matmul`. Read in place where the address and the row stride are multiples of
        16 bytes and the elements of a row adjacent; anything else is copied first.
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024)
        Codes from `quantize` or `pack`; a slice along the first two axes is fine.
    scales : array (ceil(k / group_size), n), dtype of `a`
        For float16 of magnitudes up to 65504 / 8: codes that pad k to a multiple of 128 are 8, and
        (8 - zero) * scale must be finite there too.
    zeros : array like `scales`: uint8, int8 or int32 from 0 to 16; float32 or dtype of `a`, to +-65504;
        None: all are 8
    group_size : int, a power of two from 32, or -1 for one group; None reads it off the rows of `scales`
    bias : array (n,), dtype of `a`
    alpha : float
    activation : None, or a name
        "gelu": x (1 + erf(x / sqrt 2)) / 2; "gelu_tanh": x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2,
        both of Hendrycks and Gimpel, arXiv:1606.08415; "silu": x / (1 + exp(-x)); "relu": max(x, 0).
    dtype : dtype of the result, that of `a` (default) or float32
    out : array (..., m, n) to write the result to; its rows may be strided
    config : GemmConfig to force; None: `choose_config`'s for this problem, GPU and pdl
    workspace : uint8 array of `workspace_bytes(problem, config)` bytes
        Takes the copy of `a`, where one is needed; None: memory of CuPy's pool. Calls that may run at the
        same time need one each.
    pdl : bool, dependent launch: start, and read weights, while the kernel before is still finishing
        Only for `b_packed`, `scales`, `zeros` and `bias` that are complete already: synchronise once after
        making them, and don't pass it where work in flight may be writing them. `a` and `out` may depend on
        anything earlier in the stream, an `a` that is copied first included: they are left alone until all of
        that is complete, so with the same config the result is bitwise the same. `CUPY_W4A16_PDL=0` switches
        it off, read when a call is first prepared. NumPy arrays have no use for it.

    Returns
    -------
    array (..., m, n)
        `out` where it was given. Accumulated in float32, rounded once.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, shape or value; the message names it. Nothing has been launched.
    UnsupportedDeviceError
        The current GPU is not of the Hopper generation.
    CompileError
        The kernel is not in the cache and does not compile.
    W4A16Error
        A CUDA graph is being captured, and the kernel is not loaded yet (one call before the capture loads
        it), or `a` must be copied and there is no workspace.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import gemm, quantize
    >>> w = np.eye(128, 64, dtype=np.float16)  # (k, n); PyTorch keeps (n, k): pass w.T
    >>> a = np.ones((2, 128), np.float16)
    >>> gemm(a, *quantize(w)).shape
    (2, 64)
    """
    key, device = None, -1
    if (
        type(a) is type(b_packed) is type(scales) is _ARRAY
        and (zeros is None or type(zeros) is _ARRAY)
        and (bias is None or type(bias) is _ARRAY)
        and (out is None or type(out) is _ARRAY)
        and type(group_size) in _INTEGER_OR_NONE
        and type(alpha) is float
        and workspace is None
        and (pdl is False or pdl is True)
    ):
        device = _get_device()
        key = (
            a.shape, a.strides, a.dtype, b_packed.shape, b_packed.strides, b_packed.dtype,
            scales.shape, scales.strides, scales.dtype,
            None if zeros is None else (zeros.shape, zeros.strides, zeros.dtype),
            None if bias is None else (bias.shape, bias.strides, bias.dtype),
            None if out is None else (out.shape, out.strides, out.dtype),
            group_size, alpha or str(alpha), activation, dtype, config, pdl, device,  # str: 0.0 == -0.0
        )  # fmt: skip
        try:
            plan = _plans.get(key)
        except TypeError:  # something can't be hashed: the checks will say what is wrong with it
            key = plan = None
        if plan is not None:
            target = cupy.empty(plan.out_shape, plan.out_dtype) if out is None else out
            if _launch(plan, device, a, b_packed, scales, zeros, bias, target):
                return target
    arguments = check_gemm(
        a, b_packed, scales, zeros, group_size,
        bias=bias, alpha=alpha, activation=activation, dtype=dtype, out=out,
    )  # fmt: skip
    if config is not None:
        check_config(config, arguments.problem)
    if workspace is not None:
        workspace = check_workspace(workspace, arguments)
    check_pdl(pdl)
    if arguments.xp is np:
        target = _on_host(arguments)
    elif key is not None and arguments.a_in_place:
        target = _first(key, device, arguments, config, pdl)
    else:
        target = _made_usual(arguments, config, workspace, pdl)
    return target if out is None else out


def _launch(
    plan: Plan, device: int, a: Any, b_packed: Any, scales: Any, zeros: Any, bias: Any, out: Any
) -> bool:
    """Launch `plan` on these arrays; False, and nothing done, where `a` lies where it can't be read from."""
    stream = _get_stream(device).ptr
    a_at, b_at, scales_at, out_at = a.data, b_packed.data, scales.data, out.data
    key = (
        plan, stream, a_at.ptr, b_at.ptr, scales_at.ptr, out_at.ptr,
        a_at.device_id, b_at.device_id, scales_at.device_id, out_at.device_id,
        None if zeros is None else (zeros.data.ptr, zeros.data.device_id),
        None if bias is None else (bias.data.ptr, bias.data.device_id),
    )  # fmt: skip
    launch = _launches.get(key)
    if launch is None:
        check_gpu(plan.layout, a, b_packed, scales, zeros, bias, out)
        if a_at.ptr % ALIGN_BYTES:
            return False
        launch = plan.prepare(a, b_packed, scales, zeros, bias, out, stream)
        _launches.put(key, launch)
    status = launch()
    if status:
        finish(launch, status)
    return True


def _first(key: Any, device: int, arguments: GemmArguments, config: GemmConfig | None, pdl: bool) -> Any:
    """A usual call whose plan is not there yet; the result."""
    pdl = wanted(pdl)
    plan = Plan(arguments, config or config_for(arguments.problem, device, pdl), device, pdl)
    target = cupy.empty(plan.out_shape, plan.out_dtype) if arguments.out is None else arguments.out
    a, b_packed, scales, zeros, bias = (getattr(arguments, name) for name in _INPUTS)
    _launch(plan, device, a, b_packed, scales, zeros, bias, target)
    _plans.put(key, plan)
    return target


def _made_usual(arguments: GemmArguments, config: GemmConfig | None, workspace: Any, pdl: bool) -> Any:
    """`gemm` of the same product as plain CuPy arrays and numbers, with an `a` that is read in place."""
    problem, target = arguments.problem, arguments.out
    if target is None:
        target = cupy.empty((*arguments.lead_shape, problem.n), arguments.out_dtype)
    if not problem.n:
        return target  # and no room for a copy of `a` was asked for
    strides = (arguments.out_row_bytes, arguments.out_dtype.itemsize)
    gemm(
        arguments.a if arguments.a_in_place else aligned_copy(arguments.a, problem, workspace),
        arguments.b_packed,
        arguments.scales,
        arguments.zeros,
        problem.group_size,
        bias=arguments.bias,
        alpha=arguments.alpha,
        activation=arguments.activation,
        out=cupy.ndarray((problem.m, problem.n), arguments.out_dtype, target.data, strides),
        config=config,
        pdl=pdl,
    )
    return target


def _on_host(arguments: GemmArguments) -> Any:
    """The product of NumPy arrays."""
    problem = arguments.problem
    a, b_packed, scales, zeros, bias = (getattr(arguments, name) for name in _INPUTS)
    options = bias, arguments.alpha, arguments.activation, arguments.out_dtype
    result = gemm_numpy(a, b_packed, scales, zeros, problem.group_size, *options)
    result = result.reshape(*arguments.lead_shape, problem.n)
    if arguments.out is None:
        return result
    arguments.out[...] = result
    return arguments.out
