"""The workspace: room for a copy of an `a` that can't be read in place."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._arrays import as_arrays, share_bytes
from ._check_config import check_config, check_problem
from ._check_quantized import ALIGN_BYTES
from ._checks import GemmArguments
from ._config import GemmConfig, GemmProblem
from ._device import check_current_device, current_device
from ._dtypes import ITEM_BYTES
from ._errors import W4A16Error
from ._gemm_layout import copied_row_bytes
from ._load import is_capturing


def workspace_bytes(problem: GemmProblem, config: GemmConfig | None = None) -> int:
    """Bytes that `gemm(..., workspace=)` wants for `problem`, whatever the strides of `a`.

    It is room for one copy of `a`, its rows padded to multiples of 16 bytes. The copy is made where `a` can't
    be read in place: its address or row stride is no multiple of 16 bytes, or the elements of a row are not
    adjacent. Nothing else needs memory: k is split within CTAs and clusters only, whatever the configuration.

    Parameters
    ----------
    problem : GemmProblem
    config : GemmConfig, or None for any

    Returns
    -------
    int
        Bytes, a multiple of 16.

    Raises
    ------
    TypeError, ValueError
        `problem` is no `GemmProblem`, or one of its fields is not as `GemmProblem` says; `config` is no
        configuration, or can't run `problem`.

    Examples
    --------
    >>> from cupy_w4a16 import GemmProblem, workspace_bytes
    >>> workspace_bytes(GemmProblem(m=3, n=64, k=100))  # 3 rows of 100 float16, padded to 208 bytes each
    624
    """
    problem = check_problem(problem)
    if config is not None:
        check_config(config, problem, "a GemmConfig, or None for any")
    return _needed_bytes(problem)


def check_workspace(workspace: Any, arguments: GemmArguments) -> Any:
    """The workspace as an array of the arguments' library; TypeError or ValueError where it can't serve."""
    problem, xp = arguments.problem, arguments.xp
    found, (workspace,) = as_arrays({"workspace": workspace})
    if found is not xp:
        raise TypeError(
            f"workspace is a {found.__name__} array, but a is a {xp.__name__} array: pass one like a, or None"
        )
    needed = _needed_bytes(problem)
    remedy = f"pass {xp.__name__}.empty({needed}, 'uint8'), or None"
    if workspace.dtype != np.uint8 or workspace.ndim != 1 or not workspace.flags.c_contiguous:
        raise TypeError(
            f"workspace is {workspace.dtype} of shape {workspace.shape} and strides {workspace.strides}: it "
            f"must be bytes in a row; {remedy}"
        )
    if workspace.size < needed:
        raise ValueError(
            f"workspace has {workspace.size} bytes, workspace_bytes(problem, config) says {needed} for m = "
            f"{problem.m} and k = {problem.k}: {remedy}"
        )
    if xp is cupy:
        check_current_device(current_device(), {"workspace": workspace})
        if workspace.data.ptr % ALIGN_BYTES:
            raise ValueError(
                f"workspace starts at address {workspace.data.ptr:#x}, which is no multiple of "
                f"{ALIGN_BYTES}: cut it elsewhere, or {remedy}"
            )
    for name in ("a", "b_packed", "scales", "zeros", "bias", "out"):
        x = getattr(arguments, name)
        if x is not None and share_bytes(workspace, x):
            raise ValueError(f"workspace overlaps {name} in memory, and is written: {remedy}")
    return workspace


def aligned_copy(a: Any, problem: GemmProblem, workspace: Any = None) -> Any:
    """A copy of the GPU array `a` that is read in place, (m, k); in `workspace`, or in memory of CuPy's pool.

    The pool gets its memory back while the copy may still be read: that is safe, as later work on the stream
    comes after. A captured graph however would read it at every replay, so there a workspace is asked for.
    """
    itemsize = a.dtype.itemsize
    row_bytes = copied_row_bytes(problem.k, itemsize)
    shape = (*a.shape[:-1], row_bytes // itemsize)
    if workspace is not None:
        copy = cupy.ndarray(shape, a.dtype, workspace.data)
    elif is_capturing():
        raise W4A16Error(
            f"a of shape {a.shape} and strides {a.strides} must be copied to be read, and a CUDA graph is "
            "being captured, whose replays would find the memory of a temporary copy in use by others: pass "
            f"an aligned a, or workspace=cupy.empty({_needed_bytes(problem)}, 'uint8') and keep it as long "
            "as the graph"
        )
    else:
        copy = cupy.empty(shape, a.dtype)
    # As integers: one copy kernel of CuPy's serves both dtypes.
    copy[..., : problem.k].view(np.uint16)[...] = a.view(np.uint16)
    return cupy.ndarray((problem.m, problem.k), a.dtype, copy.data, (row_bytes, itemsize))


def _needed_bytes(problem: GemmProblem) -> int:
    return copied_row_bytes(problem.k, ITEM_BYTES[problem.dtype]) * problem.m if problem.n else 0
