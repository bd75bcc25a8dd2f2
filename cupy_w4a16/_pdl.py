"""Dependent launch: which calls get it, and how weights that are read early are known to be complete.

A kernel so launched may start while the one before it in the stream is still finishing. It reads weights
(codes, scales, zeros, bias) at once; before `a`, and before it writes `out`, it waits until all earlier work
in the stream is complete and visible. That covers any kind of earlier work, so the same config gives the same
bits; a call that names none may get another one, as another may be faster.
"""

from __future__ import annotations

from typing import Any

import cupy

from ._env import pdl_allowed
from ._errors import W4A16Error
from ._load import is_capturing

#: What `Linear(..., pdl=None)` does, as its docstring says. On an H100 (2026-11-22), in a CUDA graph, a block
#: of four layers of Llama-3.1's shapes took of the time without: 8B 0.93, 0.86, 0.91 at m = 1, 16, 64; 70B
#: 0.96, 0.95, 0.96.
LINEAR_DEFAULT = True


def wanted_by_linear(pdl: Any, on_gpu: bool) -> bool:
    """Whether a `Linear` given this `pdl` launches so; TypeError on another thing than a bool or None.

    By default not one that is made during graph capture, where its weights can't be waited for.
    """
    if pdl is None:
        return on_gpu and wanted(LINEAR_DEFAULT) and not is_capturing()
    return wanted(check_pdl(pdl, "True, False, or None")) and on_gpu


def wanted(pdl: bool) -> bool:
    """`pdl`, unless `CUPY_W4A16_PDL=0` has switched it off everywhere."""
    return pdl and pdl_allowed()


def check_pdl(pdl: Any, allowed: str = "True or False") -> bool:
    """The bool it is; TypeError otherwise."""
    if type(pdl) is bool:
        return pdl
    raise TypeError(f"pdl is {pdl!r}, of type {type(pdl).__name__}: pass {allowed}")


def complete_weights() -> None:
    """Wait until the current stream has done all it was given, the making of the weights among it.

    W4A16Error during graph capture, where nothing can be waited for.
    """
    if is_capturing():
        raise W4A16Error(
            "a CUDA graph is being captured, and a Linear with dependent launch waits, when it is made, for "
            "its weights to be complete: make it before the capture, or pass pdl=False"
        )
    cupy.cuda.get_current_stream().synchronize()
