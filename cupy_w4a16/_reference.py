"""`gemm` on NumPy arrays: the same numbers as the kernels, on any machine."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._activations import apply_activation
from ._quantize import column_strips, exact_weights
from ._rounding import rounded

# Numbers (weights and results) handled at once, 4 bytes each: bounds the temporary memory, and stays in a
# CPU's cache better than whole matrices do.
_STRIP_NUMBERS = 1 << 22


def gemm_numpy(
    a: Any,
    b_packed: Any,
    scales: Any,
    zeros: Any,
    group_size: int,
    bias: Any,
    alpha: float,
    activation: str | None,
    out_dtype: Any,
) -> Any:
    """`activation(alpha * (a @ w) + bias)` for checked NumPy arguments, what `gemm` does without a GPU.

    The weights are those of `dequantize`: float32, rounded once to `a`'s dtype. Products are accumulated in
    float32 (NumPy's BLAS chooses the order), `alpha` and `bias` applied in float32, the activation evaluated
    in float64, and the result rounded once to `out_dtype`.

    Parameters
    ----------
    a : array (..., k), float16 or bfloat16, any strides
    b_packed, scales, zeros : the weight; `zeros` may be None
    group_size : int, -1 or a power of two from 32, not None
    bias : array (n,), or None
    alpha : float
    activation : a member of `_activations.ACTIVATIONS`, or None
    out_dtype : float16, bfloat16 or float32

    Returns
    -------
    array (..., n) of `out_dtype`
        `c`, C-contiguous.
    """
    k, n = a.shape[-1], scales.shape[1]
    rows = a.astype(np.float32).reshape(math.prod(a.shape[:-1]), k)
    c = np.empty((*a.shape[:-1], n), out_dtype)
    flat = c.reshape(rows.shape[0], n)
    for columns in column_strips(n, k + rows.shape[0], _STRIP_NUMBERS):
        w = rounded(exact_weights(b_packed, scales, zeros, group_size, k, columns), a.dtype)
        with np.errstate(all="ignore"):  # infinities and NaNs are results like others, as on a GPU
            accum = rows @ w.astype(np.float32)
            accum *= np.float32(alpha)
            if bias is not None:
                accum += bias[columns].astype(np.float32)
            flat[:, columns] = rounded(apply_activation(np, accum, activation), out_dtype)
    return c
