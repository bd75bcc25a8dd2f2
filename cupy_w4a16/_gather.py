"""The order of k that an act-order weight asks of its activations: a permutation, and its gather."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import cupy
import numpy as np

from ._arrays import as_arrays
from ._check_quantized import ALIGN_BYTES
from ._device import num_sms
from ._errors import W4A16Error
from ._load import is_capturing

_THREADS = 256
_WORD = ALIGN_BYTES // 2  # elements that a thread writes at once
_MAX_GRID_Y = 65535  # CUDA's; CTAs take several parts of a longer row
_STAGED_BYTES = 48 * 1024  # shared memory that a CTA has without asking


def checked_perm(perm: Any, b_packed: Any, k: int) -> Any:
    """`perm` as contiguous int32 of the library of `b_packed`, a permutation of 0 to k - 1.

    On the GPU this waits for the current stream; the kernel that gathers is loaded. W4A16Error in a capture.
    """
    xp, (perm, _) = as_arrays({"perm": perm, "b_packed": b_packed})
    if perm.dtype.kind not in "iu":
        raise TypeError(f"perm is {perm.dtype}: it must be integers, the row of w that each packed row is")
    if perm.shape != (k,):
        raise ValueError(f"perm is of shape {perm.shape}, but the weight has k = {k} rows: it must be ({k},)")
    if xp is np:
        _check_permutation(perm, k)
        return np.ascontiguousarray(perm, np.int32)
    if is_capturing():
        raise W4A16Error(
            "a CUDA graph is being captured, and a Linear with perm looks at it when it is made: "
            "make it before the capture"
        )
    host = cupy.asnumpy(perm)
    _check_permutation(host, k)
    _kernel().compile()
    if perm.dtype != np.int32 or not perm.flags.c_contiguous:
        perm = cupy.asarray(np.ascontiguousarray(host, np.int32))
        cupy.cuda.get_current_stream().synchronize()  # other streams may read it at once
    return perm


def gathered(xp: ModuleType, a: Any, perm: Any) -> Any:
    """A copy of `a (m, k)` with its columns in the order of `perm`, in rows that are read in place."""
    if xp is np:
        return np.take(a, perm, axis=1)
    m, k = a.shape
    words = -(-k // _WORD)
    copy = cupy.empty((m, words * _WORD), a.dtype)
    if copy.size:
        many = m >= num_sms(copy.data.device_id)  # a CTA each fills the GPU; fewer have several each
        staged_bytes = 2 * k if many and 2 * k <= _STAGED_BYTES else 0
        grid = (m, 1 if many else min(-(-words // _THREADS), _MAX_GRID_Y))
        row, column = (stride // 2 for stride in a.strides)
        arguments = (copy.data.ptr, a.data.ptr, perm.data.ptr, k, row, column, int(staged_bytes > 0))
        _kernel()(grid, (_THREADS,), arguments, shared_mem=staged_bytes)
    return copy[:, :k]


def _check_permutation(perm: Any, k: int) -> None:
    if not k:
        return
    low, high = int(perm.min()), int(perm.max())
    if low < 0 or high >= k:
        raise ValueError(f"perm holds {low if low < 0 else high}: it must hold each of 0 to {k - 1} once")
    counts = np.bincount(perm.astype(np.int64), minlength=k)
    if counts.max() > 1:
        twice = int(counts.argmax())
        raise ValueError(f"perm holds {twice} {counts[twice]} times: it must hold each of 0 to {k - 1} once")


@cache
def _kernel() -> Any:
    return cupy.RawKernel(_SOURCE, "gather_k")


# CTA (x, y): row x, and every gridDim.y-th part of it from y on. The row is read once, into shared memory,
# where one CTA has all of it; 16-bit loads scattered over global memory take several times as long.
_SOURCE = f"""
extern "C" __global__ void __launch_bounds__({_THREADS})
gather_k(uint4* out, const unsigned short* a, const int* perm, long long k, long long row_stride,
         long long k_stride, long long staged) {{
  extern __shared__ unsigned short stage[];
  const long long words = (k + {_WORD - 1}) / {_WORD};
  const unsigned short* row = a + blockIdx.x * row_stride;
  if (staged) {{
    for (int i = threadIdx.x; i < k; i += {_THREADS}) stage[i] = row[i * k_stride];
    __syncthreads();
    row = stage;
    k_stride = 1;
  }}
  long long word = blockIdx.y * {_THREADS}LL + threadIdx.x;
  for (; word < words; word += gridDim.y * {_THREADS}LL) {{
    unsigned int pairs[{_WORD // 2}];
    for (int i = 0; i < {_WORD}; i += 2) {{
      const long long at = word * {_WORD} + i;
      const unsigned int low = at < k ? row[perm[at] * k_stride] : 0;
      const unsigned int high = at + 1 < k ? row[perm[at + 1] * k_stride] : 0;
      pairs[i / 2] = low | high << 16;
    }}
    out[blockIdx.x * words + word] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }}
}}
"""
