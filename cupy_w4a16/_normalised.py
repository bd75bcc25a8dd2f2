"""Scales made ready for a shorter dequantization: a private copy that `Linear` keeps beside the natural ones.

A code masked out of its word is the mantissa of a float16 denormal: q x 2^-22 (even columns) or q x 2^-18
(odd ones; `_pack.py` draws the word). One fma with s' x 2^22 (or s' x 2^18) and -8 s' makes it (q - 8) x s',
rounded once, where the natural scale s takes an fma and a multiplication. It asks for s' < 2^-6, so every
column's scales are brought there by a power of two, which the sums are multiplied by in the end.

Powers of two change no digit, so that products have the same bits as with natural scales. That holds where
neither the weights (q - 8) x s nor (q - 8) x s' are subnormal or overflow; other scales are left as they are.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import cupy
import numpy as np

from ._config import GemmConfig, GemmProblem
from ._dtypes import BFLOAT16

_TOP = 30  # exponent field of a column's largest s' x 2^22
_LEAST, _LARGEST = 1, 27  # exponent fields of scales s whose weights are normal: 2^-14 <= s, 8 s <= 65504
_RANGE = 7  # binades below the largest, for s' >= 2^-14


class Normalised(NamedTuple):
    """`scales` (num_groups, n), float16: s' x 2^22, or x 2^18 in odd columns; `by`, bfloat16: s / s' of each.

    `by` has an even number of elements, n or n + 1: kernels read pairs.
    """

    scales: Any
    by: Any


def takes_normalised(config: GemmConfig, problem: GemmProblem) -> bool:
    """Whether a kernel for normalised scales exists: the wgmma family's, with float16 scales on weights."""
    return is_symmetric_float16(problem) and config.family == "wgmma" and config.scale_on == "weights"


def is_symmetric_float16(problem: GemmProblem) -> bool:
    """Whether the problem's weights are of the kind whose scales can be normalised."""
    return problem.dtype == "float16" and problem.zeros is None


def alpha_fits(alpha: float) -> bool:
    """Whether alpha times a column's power of two, 2^-8 to 2^19, is as exact in float32 as alpha is."""
    return alpha == 0 or 2.0**-100 < abs(alpha) < 2.0**100


def normalised(scales: Any) -> Normalised | None:
    """Float16 `scales` (num_groups, n) of symmetric weights, NumPy's or CuPy's; None where some don't fit.

    Waits for the current stream: what it returns is complete, for any stream.

    >>> scaled, by = normalised(np.array([[0.5, 0.5], [0.25, 1.0]], np.float16))
    >>> (scaled * by.astype(np.float32) * np.float32([2**-22, 2**-18])).tolist()
    [[0.5, 0.5], [0.25, 1.0]]
    """
    if not scales.size:
        return None
    if isinstance(scales, np.ndarray):
        return _on_host(scales)
    rows, n = scales.shape
    result, by = cupy.empty(scales.shape, scales.dtype), cupy.zeros(n + n % 2, BFLOAT16)
    unfit = cupy.zeros(1, np.int32)
    arguments = (scales, scales.strides[0] // scales.itemsize, rows, n, result, by, unfit)
    _kernel()((-(-n // _THREADS),), (_THREADS,), arguments)
    return None if int(unfit[0]) else Normalised(result, by)


def _on_host(scales: Any) -> Normalised | None:
    """The definition."""
    n = scales.shape[1]
    bits = scales.view(np.uint16).astype(np.int32)
    zero, exponents = bits & 0x7FFF == 0, bits >> 10 & 31
    top = exponents.max(axis=0)
    low = np.where(zero, top, exponents).min(axis=0)
    if (~zero.all(axis=0) & ((low < _LEAST) | (top > _LARGEST) | (top - low > _RANGE))).any():
        return None
    shift = _TOP - top - 4 * (np.arange(n) % 2)
    by = np.zeros(n + n % 2, BFLOAT16)
    by[:n] = np.exp2(top - 8.0)  # 8 = _TOP - 22
    return Normalised(np.where(zero, 0, bits + (shift << 10)).astype(np.uint16).view(scales.dtype), by)


@cache
def _kernel() -> Any:
    return cupy.RawKernel(_SOURCE, "normalise_scales")


_THREADS = 128

# A thread a column. A bfloat16's exponent field is 7 bits up, and biased by 127.
_SOURCE = f"""
extern "C" __global__ void normalise_scales(const unsigned short* scales, long long stride, long long rows,
                                            long long n, unsigned short* result, unsigned short* by,
                                            int* unfit) {{
  const long long column = blockIdx.x * {_THREADS}LL + threadIdx.x;
  if (column >= n) return;
  int top = 0, low = 31;
  for (long long row = 0; row < rows; ++row) {{
    const int bits = scales[row * stride + column];
    if (bits & 0x7FFF) {{
      top = max(top, bits >> 10 & 31);
      low = min(low, bits >> 10 & 31);
    }}
  }}
  if (low < 31 && (low < {_LEAST} || top > {_LARGEST} || top - low > {_RANGE}) || top == 31) *unfit = 1;
  by[column] = (127 + top - 8) << 7;
  const int shift = {_TOP} - top - (column % 2 ? 4 : 0);
  for (long long row = 0; row < rows; ++row) {{
    const int bits = scales[row * stride + column];
    result[row * n + column] = bits & 0x7FFF ? bits + (shift << 10) : 0;
  }}
}}
"""
