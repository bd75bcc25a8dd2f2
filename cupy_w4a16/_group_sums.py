"""What the searches of scales and zeros compare: sums over the rows of a group, of each weight's error.

NumPy's lines are the definition. CuPy makes one kernel of each: the same operations, that read the weights
once and write nothing but the sums, where ufuncs would pass over all weights half a dozen times, for each of
the scales tried. Groups come as float32 ``(groups, rows, columns)``, the rest and the sums as float32
``(groups, columns)``.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ._rounding import MAX_CODE

#: The power of an error that ``powers`` adds up.
P = 0.7
_TINY = 2.0**-60  # for an error of 0, whose |d|^(P - 1) would be infinite


def squares(xp: ModuleType, grouped: Any, scale: Any, zero: Any) -> Any:
    """sum (w - (q - zero) * scale)^2 with the nearest code q, for a whole zero."""
    if xp is not np:
        return _squares()(grouped, scale[:, None], zero[:, None], axis=1)
    d = grouped / scale[:, None]
    np.rint(d, out=d)
    np.clip(d, -zero[:, None], MAX_CODE - zero[:, None], out=d)
    d *= scale[:, None]
    d -= grouped
    d *= d
    return d.sum(axis=1)


def powers(xp: ModuleType, steps: Any, zero: Any, beta: float) -> tuple[Any, Any]:
    """sum |d|^P and sum sign(d) * min(|d|, |d|^(P - 1) / beta).

    ``steps`` is w / scale, and d = steps + zero - q with the nearest code q, for any zero."""
    inverse = np.float32(1 / beta)
    if xp is not np:
        norm, excess = _powers()
        return norm(steps, zero[:, None], axis=1), excess(steps, zero[:, None], inverse, axis=1)
    d = steps + zero[:, None]
    d -= np.clip(np.rint(d), 0, MAX_CODE)
    size = np.maximum(abs(d), np.float32(_TINY))
    power = size ** np.float32(P - 1)
    excess = np.copysign(np.minimum(size, power * inverse), d).sum(axis=1)
    power *= size
    return power.sum(axis=1), excess


@cache
def _squares() -> Any:
    return _sum(
        "squares",
        "float32 w, float32 scale, float32 zero",
        f"""
__device__ float squares(float w, float scale, float zero) {{
  float steps = fminf(fmaxf(rintf(w / scale), -zero), {MAX_CODE} - zero);
  float d = steps * scale - w;
  return d * d;
}}""",
    )


@cache
def _powers() -> tuple[Any, Any]:
    group = "float32 steps, float32 zero"
    text = f"""
__device__ float error(float steps, float zero) {{
  float y = steps + zero;
  return y - fminf(fmaxf(rintf(y), 0.f), {MAX_CODE}.f);
}}
__device__ float size(float d) {{ return fmaxf(fabsf(d), {_TINY!r}f); }}
__device__ float power(float d) {{ return powf(size(d), {P - 1!r}f); }}
__device__ float norm(float steps, float zero) {{
  float d = error(steps, zero);
  return power(d) * size(d);
}}
__device__ float excess(float steps, float zero, float inverse) {{
  float d = error(steps, zero);
  return copysignf(fminf(size(d), power(d) * inverse), d);
}}"""
    return _sum("norm", group, text), _sum("excess", f"{group}, float32 inverse", text)


def _sum(name: str, given: str, text: str) -> Any:
    """A CuPy kernel that adds up the device function `name` of what is `given`; `text` defines it."""
    import cupy

    names = ", ".join(part.split()[1] for part in given.split(", "))
    mapped, preamble = f"w4a16::{name}({names})", f"namespace w4a16 {{{text}\n}}"
    return cupy.ReductionKernel(
        given, "float32 total", mapped, "a + b", "total = a", "0", f"w4a16_{name}", preamble=preamble
    )
