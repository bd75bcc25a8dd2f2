"""Activation-aware scaling: finer steps for the rows of a weight that large activations multiply.

After J. Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration"
(arXiv:2306.00978), section 3.2 and its released code's normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ._arrays import as_arrays
from ._cublas import require_cublas
from ._dtypes import FLOAT32, HALF_DTYPES
from ._quantize import QuantizedWeight, checked_scheme, quantize_checked, weight_strips
from ._rounding import rounded
from ._scalars import as_int
from ._scheme import Scheme, quantized_groups

# Activations handled at once: bounds the temporary memory, 4 bytes each.
_CHUNK_NUMBERS = {"numpy": 1 << 20, "cupy": 1 << 24}
#: Channels whose mean is a smaller share of the largest count as having this: scales stay within 2^±5.
_LEAST_SHARE = 2.0**-10


class ScaledWeight(NamedTuple):
    """A quantized weight with its rows scaled, by which the activations have to be divided.

    `a @ w` is `gemm(a / scale, *weight)`. It is not a `QuantizedWeight`, and `gemm` refuses it, so that the
    scale can't be forgotten. Where the scale is folded into the layer before, `gemm(a, *weight)` is all: see
    `awq_scale`.

    Attributes
    ----------
    weight : QuantizedWeight, that of `scale[:, None] * w`
    scale : array (k,), positive, dtype of `weight.scales`

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import ScaledWeight, gemm, quantize
    >>> w, scale = np.eye(128, 64, dtype=np.float16), np.full(128, 2, np.float16)
    >>> weight, scale = ScaledWeight(quantize(scale[:, None] * w), scale)
    >>> gemm(np.ones((1, 128), np.float16) / scale, *weight)[0, :3].tolist()
    [1.0, 1.0, 1.0]
    """

    weight: QuantizedWeight
    scale: Any


def awq_scale(
    w: Any,
    a: Any,
    group_size: int = 128,
    *,
    symmetric: bool = True,
    dtype: Any = None,
    method: str = "rtn",
    steps: int = 20,
) -> ScaledWeight:
    """Weights in 4 bits that serve given activations best: each row scaled by what its channel carries.

    A row of `w` that is multiplied by `scale` before it is rounded, and whose activations are divided by it,
    gives the same product with an error `scale` times smaller, as long as the group's extreme lies in another
    row. So rows that meet large activations are scaled up, those that meet small ones down::

        x     = mean(|a|) over all rows of a, channel by channel
        scale = (x / sqrt(min(x) * max(x)))**alpha

    The exponent alpha is the one of 0, 1 / steps, ..., (steps - 1) / steps that makes
    `norm(a @ w - (a / scale) @ dequantize(*quantize(scale[:, None] * w)))` least. alpha = 0 is plain
    `quantize`: on `a` the result is never worse than that. Means below 1/1024 of the largest count as that,
    so that a channel that was silent by chance is not given up.

    **Using it.** `weight, scale = awq_scale(w, a)`, then `gemm(x / scale, *weight)`. The division can be
    folded into what makes `x`, once, and `gemm(x, *weight)` then costs what it costs without scaling:

    - a norm, `x = unit(h) * gain + bias`: divide `gain` and `bias` by `scale`;
    - a linear layer, `x = h @ u + bias`, or `(h @ u) * gate`: divide the columns of `u`, and `bias`; not
      through an activation other than ReLU.

    Layers that read the same `x` (query, key and value; gate and up) must then share one scale: join their
    weights, `awq_scale(xp.concatenate([wq, wk, wv], axis=1), a)`.

    Parameters
    ----------
    w : array (k, n), float16, bfloat16, float32 or float64
        As for `quantize`: any strides, NumPy or CuPy.
    a : array (..., k), float16, bfloat16 or float32
        What the layer gets for a sample of real inputs, without padding. Some hundred rows are enough; time
        grows with them.
    group_size, symmetric, method : as for `quantize`
        The search takes `steps` times as long.
    dtype : dtype of the scales: float16 or bfloat16
        None: that of `a` if it is one of them, then that of `w`, otherwise float16.
    steps : int, exponents to try, 1 or more

    Returns
    -------
    ScaledWeight
        `(weight, scale)`, arrays of `w`'s library. On CuPy `cupy.matmul` does the search's products, which
        needs cuBLAS (extra [demo] or [bench]).

    Raises
    ------
    TypeError
        `w` or `a` is no array of floats, or of another library than the other.
    ValueError
        `a` does not end in `w`'s k, is empty or holds a NaN or an infinity, `steps` is below 1, or an
        argument is one that `quantize` refuses.
    ImportError
        CuPy has no cuBLAS.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import awq_scale, dequantize, gemm, quantize
    >>> rng = np.random.default_rng(0)
    >>> w = rng.standard_normal((256, 64)).astype(np.float16)
    >>> a = rng.standard_normal((50, 256)).astype(np.float16)
    >>> a[:, :2] *= 100  # two channels carry most
    >>> weight, scale = awq_scale(w, a)
    >>> exact = a.astype(np.float32) @ w.astype(np.float32)
    >>> plain, scaled = (abs(c - exact).mean() for c in (gemm(a, *quantize(w)), gemm(a / scale, *weight)))
    >>> bool(scaled < 0.5 * plain)
    True
    """
    xp, (w, a) = as_arrays({"w": w, "a": a})
    if a.dtype not in (*HALF_DTYPES, FLOAT32):
        raise TypeError(f"a has dtype {a.dtype}; activations are float16, bfloat16 or float32")
    scheme = checked_scheme(w, group_size, symmetric, _scale_dtype(dtype, a), method)
    k = w.shape[0]
    if a.ndim == 0 or a.shape[-1] != k:
        raise ValueError(
            f"a has shape {a.shape} and w {w.shape}: a must be (..., k) with k = {k}, the rows of w; a "
            "PyTorch or safetensors weight is (n, k): pass w.T"
        )
    if not a.size:
        raise ValueError(
            f"a has shape {a.shape}, which holds no activations: pass a row at least, better 100"
        )
    steps = as_int("steps", steps)
    if steps < 1:
        raise ValueError(f"steps is {steps}: pass how many exponents to try, 1 or more")
    if xp is not np:
        require_cublas("awq_scale on CuPy arrays")
    rows = a.reshape(-1, k)
    scale = _best_scale(xp, w, rows, _importance(xp, rows), scheme, steps)
    weight = quantize_checked(xp, w, scheme, scale)
    return ScaledWeight(weight, scale.astype(scheme.dtype))


def _scale_dtype(dtype: Any, a: Any) -> Any:
    return a.dtype if dtype is None and a.dtype in HALF_DTYPES else dtype


def _importance(xp: ModuleType, rows: Any) -> Any:
    """The mean magnitude of each channel, float32 (k,), its least and largest reciprocal to each other."""
    total = xp.zeros(rows.shape[1], np.float64)
    for chunk in _chunks(xp, rows, rows.shape[1]):
        total += abs(chunk).sum(axis=0, dtype=np.float64)
    if not bool(xp.isfinite(total).all()):
        channel = int((~xp.isfinite(total)).argmax())
        raise ValueError(f"a holds a NaN or an infinity in channel {channel}: leave such rows out")
    largest = float(total.max())
    if largest == 0:
        return xp.ones(len(total), np.float32)
    shares = xp.maximum(total / largest, _LEAST_SHARE)
    return (shares / float(shares.min()) ** 0.5).astype(np.float32)


def _best_scale(xp: ModuleType, w: Any, rows: Any, importance: Any, scheme: Scheme, steps: int) -> Any:
    """The scale with the least error, float32 (k,), numbers that the scheme's dtype holds."""
    best = xp.ones_like(importance)
    least = _error(xp, w, rows, best, scheme)
    for i in range(1, steps):
        scale = rounded(importance ** np.float32(i / steps), scheme.dtype).astype(np.float32)
        try:
            error = _error(xp, w, rows, scale, scheme)
        except ValueError:  # a weight scaled up needs a scale that dtype can't hold; w itself does not
            continue
        if error < least:
            best, least = scale, error
    return best


def _error(xp: ModuleType, w: Any, rows: Any, scale: Any, scheme: Scheme) -> float:
    """The squared norm of `a @ w - (a / scale) @ dequantized`, in float32 but for its sums."""
    total = xp.zeros((), np.float64)
    for columns, values in weight_strips(xp, w, scale):
        difference = values.copy()
        for found in quantized_groups(xp, values, scheme, columns.start):
            found.q[...] -= found.zero[:, None]
            found.q[...] *= found.scale[:, None]
            difference[found.rows] -= found.q.reshape(-1, values.shape[1])
        for chunk in _chunks(xp, rows, values.shape[1]):
            chunk /= scale
            with np.errstate(all="ignore"):  # beyond float32 is beyond the least
                output = (chunk @ difference).astype(np.float64)
                total += (output * output).sum()
    return float(total)


def _chunks(xp: ModuleType, rows: Any, columns: int) -> Iterator[Any]:
    """Float32 copies of some rows at a time, for products of so many columns."""
    step = max(1, _CHUNK_NUMBERS[xp.__name__] // max(rows.shape[1], columns))
    for start in range(0, rows.shape[0], step):
        yield rows[start : start + step].astype(np.float32)
