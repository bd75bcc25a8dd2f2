"""`gemm`: check, choose, launch."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from . import _launch
from ._checks import check_gemm
from ._config import GemmConfig, invalid_reason
from ._heuristics import choose_config
from ._reference import gemm_numpy


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

    `w (k, n) = (q - zeros) * scales`, one scale and zero for each group of `group_size` rows and each column. NumPy
    arrays are multiplied by NumPy; CuPy arrays, and other GPU arrays through DLPack or the CUDA array interface, by a
    Hopper kernel on CuPy's current stream.

    Parameters
    ----------
    a : array (..., m, k) or (k,), float16 or bfloat16
        Activations, as in `numpy.matmul`. Read in place where the address and the row stride are multiples of 16
        bytes and the elements of a row adjacent; anything else is copied first.
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024)
        Codes from `quantize` or `pack`; a slice along the first two axes is fine.
    scales : array (ceil(k / group_size), n), dtype of `a`
    zeros : array like `scales`, uint8, int8 or int32 from 0 to 16, or float; None means 8 (symmetric)
    group_size : int, a power of two from 32, or -1 for one group; None reads it off the rows of `scales`
    bias : array (n,), dtype of `a`
    alpha : float
    activation : None, "gelu" (erf), "gelu_tanh", "silu" or "relu"
    dtype : dtype of the result, that of `a` (default) or float32
    out : array (..., m, n) to write the result to; its rows may be strided
    config : GemmConfig to force; None leaves the choice to `choose_config`
    workspace : reserved, must be None: no kernel needs one yet
    pdl : reserved, must be False: dependent launch is not offered yet

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

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import gemm, quantize
    >>> w = np.eye(128, 64, dtype=np.float16)  # (k, n); PyTorch keeps (n, k): pass w.T
    >>> a = np.ones((2, 128), np.float16)
    >>> gemm(a, *quantize(w)).shape
    (2, 64)
    """
    arguments = check_gemm(
        a, b_packed, scales, zeros, group_size, bias=bias, alpha=alpha, activation=activation, dtype=dtype, out=out
    )
    problem = arguments.problem
    if workspace is not None:
        raise ValueError("workspace is given, but no kernel needs one yet: pass None")
    if pdl:
        raise ValueError("pdl is True, but dependent launch is not offered yet: pass False")
    if config is not None:
        if not isinstance(config, GemmConfig):
            raise TypeError(f"config is a {type(config).__name__}: pass a GemmConfig, or None for the heuristic's choice")
        if reason := invalid_reason(config, problem):
            raise ValueError(f"config {config} can't run this problem: {reason}")

    if arguments.xp is np:
        result = gemm_numpy(
            arguments.a,
            arguments.b_packed,
            arguments.scales,
            arguments.zeros,
            problem.group_size,
            arguments.bias,
            arguments.alpha,
            arguments.activation,
            arguments.out_dtype,
        ).reshape(*arguments.lead_shape, problem.n)
        if out is None:
            return result
        arguments.out[...] = result
        return out

    target = arguments.out
    if target is None:
        target = cupy.empty((*arguments.lead_shape, problem.n), arguments.out_dtype)
    if problem.m and problem.n:
        _launch.run(arguments, config or choose_config(problem), target)
    return target if out is None else out
