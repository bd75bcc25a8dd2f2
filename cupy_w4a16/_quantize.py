"""The arithmetic of 4-bit weights, w = (q - zero) * scale: defined once, NumPy and CuPy alike."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ._arrays import as_arrays
from ._check_quantized import check_quantized
from ._dtypes import FLOAT16, HALF_DTYPES, OUT_DTYPES, dtype_of
from ._group_size import check_group_size, group_rows
from ._pack import BLOCK_N, pack, packed_shape, unpack
from ._rounding import SYMMETRIC_ZERO, as_float32, rounded
from ._scheme import METHODS, Scheme, groups_of, quantized_groups

# Weights handled at once: bounds the temporary memory (about 16 bytes a weight; searches on NumPy take more).
# See _pack for the two sizes.
STRIP_WEIGHTS = {"numpy": 1 << 20, "cupy": 1 << 24}


class QuantizedWeight(NamedTuple):
    """A quantized weight, in the order of `gemm`'s arguments: `gemm(a, *weight)`.

    Attributes
    ----------
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024), the codes as `pack` lays them out
    scales : array (ceil(k / group_size), n), float16 or bfloat16
    zeros : array like `scales`: uint8, or its dtype by method "hqq"; None: symmetric, zero is 8
    group_size : int, rows of k that share a scale; -1 means all of k

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import dequantize, quantize
    >>> weight = quantize(np.eye(128, 64, dtype=np.float16))
    >>> dequantize(*weight).shape, weight.group_size
    ((128, 64), 128)
    """

    b_packed: Any
    scales: Any
    zeros: Any
    group_size: int


def quantize(
    w: Any, group_size: int = 128, *, symmetric: bool = True, dtype: Any = None, method: str = "rtn"
) -> QuantizedWeight:
    """Weights rounded to 4 bits, one scale (and zero point) for each column and group of rows.

    Symmetric, with `extreme` the group's weight of largest magnitude, sign kept::

        scale = -extreme / 8                q = clip(rint(w / scale) + 8, 0, 15)

    so the extreme always gets code 0 = -8, the end of the codes that reaches further, and **the scale is
    negative where the extreme is positive**. This uses all 16 codes and, being a power of two away, gives the
    extreme back exactly; a weight of the other sign is at most one step (|extreme| / 8) off, every other at
    most half a step. On Gaussian weights in groups of 128 the error is 10.3 % RMS, against 11.7 % with
    scale = max|w| / 7 and 11.1 % with max|w| / 7.5 (in groups of 32: 8.6, 9.7 and 9.5 %).

    Asymmetric, with `low = min(w, 0)` and `high = max(w, 0)` of the group (so that 0 stays 0)::

        scale = (high - low) / 15           zero = clip(rint(-low / scale), 0, 15)
        q = clip(rint(w / scale) + zero, 0, 15)

    with 10.1 % RMS there, and less where weights lie to one side. All of it in float32; the scale is rounded
    to `dtype` first, and codes and zeros are chosen for the rounded one. A group of zeros gets scale 1. A
    scale too small for `dtype` becomes its smallest number, as exact as `dtype` could hold such weights
    themselves.

    That is `method="rtn"`. Two others ask which scale or zero serves a whole group best:

    - `"mse"` tries 40 scales around that one (asymmetric: 60 pairs of scale and zero) and keeps what makes
      `sum((w - (q - zero) * scale)**2)` least. No group gets worse; Gaussian weights in groups of 128 get
      9.7 % RMS, symmetric, and 9.5 %.
    - `"hqq"` keeps the asymmetric scale and finds **float zeros**, rounded to `dtype`, which lower the
      group's `sum(abs(error)**0.7)`; `q = clip(rint(w / scale + zero), 0, 15)`. It needs `symmetric=False`.

    The modules `cupy_w4a16._search` and `cupy_w4a16._half_quadratic` have formulas and sources. Where
    activations are at hand, `awq_scale` does better than all of them. On the demo's encoder, mean cosine of
    the embeddings to those of float32 (twelve sentences: too few for differences of 0.001 to mean anything)::

        group_size    symmetric rtn, mse, awq    asymmetric rtn, mse, hqq, awq
        128           0.9545  0.9645  0.9704     0.9626  0.9667  0.9623  0.9757
        64            0.9628  0.9691  0.9775     0.9709  0.9731  0.9705  0.9813
        32            0.9712  0.9737  0.9828     0.9759  0.9764  0.9778  0.9860

    Parameters
    ----------
    w : array (k, n), float16, bfloat16, float32 or float64
        Any strides, NumPy or CuPy. k is the reduction, n the output features: a PyTorch or safetensors linear
        weight is (n, k), pass `w.T`.
    group_size : int, a power of two from 32, or -1 for one group
        Rows that share a scale; the last group may be short.
    symmetric : bool
        True: zero is 8 and `zeros` None; False: `zeros` is uint8, 0 to 15 (with "hqq" floats).
    dtype : dtype of the scales, which must be that of the activations: float16 or bfloat16
        None: that of `w` if it is one of them, otherwise float16.
    method : "rtn", "mse" or "hqq", see above

    Returns
    -------
    QuantizedWeight
        `(b_packed, scales, zeros, group_size)`, arrays of `w`'s library, for `gemm(a, *quantize(w))`.

    Raises
    ------
    TypeError
        `w` is no NumPy or GPU array of floats, or `dtype`, `group_size` or `symmetric` of a wrong kind.
    ValueError
        `w` is not two-dimensional or holds a NaN or an infinity, a scale overflows `dtype`, `group_size` or
        `method` is not allowed, or "hqq" meets `symmetric=True`.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import dequantize, quantize
    >>> w = np.linspace(-1, 1, 256 * 2, dtype=np.float32).reshape(256, 2)
    >>> weight = quantize(w, group_size=64)
    >>> weight.b_packed.shape, weight.scales.shape, weight.zeros, weight.group_size
    ((1, 2, 1024), (4, 2), None, 64)
    >>> bool(abs(dequantize(*weight) - w).max() <= 1 / 16)
    True
    """
    xp, (w,) = as_arrays({"w": w})
    return quantize_checked(xp, w, checked_scheme(w, group_size, symmetric, dtype, method))


def checked_scheme(w: Any, group_size: Any, symmetric: Any, dtype: Any, method: str) -> Scheme:
    """The scheme that these arguments of `quantize` name; TypeError or ValueError for what it refuses."""
    if w.dtype not in (*OUT_DTYPES, np.dtype(np.float64)):
        raise TypeError(
            f"w has dtype {w.dtype}; float16, bfloat16, float32 and float64 weights can be quantized"
        )
    if w.ndim != 2:
        raise ValueError(f"w has shape {w.shape}; weights are (k, n), two dimensions: reshape it first")
    if dtype is None:
        dtype = w.dtype if w.dtype in HALF_DTYPES else FLOAT16
    dtype = dtype_of(dtype, HALF_DTYPES)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(map(repr, METHODS))}")
    if not isinstance(symmetric, (bool, np.bool_)):
        raise TypeError(f"symmetric is {symmetric!r}, of type {type(symmetric).__name__}: pass True or False")
    if method == "hqq" and symmetric:
        raise ValueError("method 'hqq' finds float zeros, symmetric=True allows none: pass symmetric=False")
    return Scheme(check_group_size(group_size), bool(symmetric), dtype, method)


def quantize_checked(xp: ModuleType, w: Any, scheme: Scheme, row_factors: Any = None) -> QuantizedWeight:
    """`quantize` for checked arguments; `row_factors`, see `weight_strips`."""
    k, n = w.shape
    rows = group_rows(k, scheme.group_size)
    b_packed = xp.empty(packed_shape(k, n), np.int32)
    scales = xp.empty((rows, n), scheme.dtype)
    zeros = None if scheme.symmetric else xp.empty((rows, n), scheme.zeros_dtype)
    for columns, values in weight_strips(xp, w, row_factors):
        q = xp.empty(values.shape, np.uint8)
        for found in quantized_groups(xp, values, scheme, columns.start):
            q[found.rows] = found.q.reshape(-1, values.shape[1])
            scales[found.groups, columns] = found.scale.astype(scheme.dtype)
            if zeros is not None:
                zeros[found.groups, columns] = found.zero.astype(zeros.dtype)
        b_packed[columns.start // BLOCK_N : -(-columns.stop // BLOCK_N)] = pack(q)
    return QuantizedWeight(b_packed, scales, zeros, scheme.group_size)


def weight_strips(xp: ModuleType, w: Any, row_factors: Any = None) -> Iterator[tuple[slice, Any]]:
    """Strips of columns and their weights, a float32 copy; row i times `row_factors[i]`, float32 (k,)."""
    for columns in column_strips(w.shape[1], w.shape[0], STRIP_WEIGHTS[xp.__name__]):
        values = as_float32(xp, w[:, columns], columns.start)
        if row_factors is not None:
            values *= row_factors[:, None]
        yield columns, values


def dequantize(
    b_packed: Any,
    scales: Any,
    zeros: Any = None,
    group_size: int | None = None,
    *,
    k: int | None = None,
    dtype: Any = None,
) -> Any:
    """The weights `(q - zero) * scale` that `gemm` multiplies by, computed in float32 and rounded once.

    Parameters
    ----------
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024), as `pack` makes it, NumPy or CuPy
    scales : array (ceil(k / group_size), n), float16 or bfloat16
    zeros : array like `scales`: uint8, int8 or int32 from 0 to 16; float32 or dtype of `scales`;
        None: all are 8
    group_size : int, a power of two from 32, or -1 for one group; None reads it off the rows of `scales`
    k : int, rows of the weight; None means whole groups (rows * group_size; with -1, 128 x blocks)
    dtype : dtype of the result: float16, bfloat16 or float32; None means that of `scales`

    Returns
    -------
    array (k, n)
        `w`, C-contiguous, of the arguments' library.

    Raises
    ------
    TypeError
        An argument's type or dtype is another, or NumPy and GPU arrays are mixed.
    ValueError
        Shapes, `k` and `group_size` do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import dequantize, pack
    >>> q = np.array([[9], [10]], np.uint8)
    >>> scales = np.array([[0.5]], np.float16)
    >>> dequantize(pack(q), scales, k=2).ravel().tolist()
    [0.5, 1.0]
    >>> dequantize(pack(q), scales, np.array([[10]], np.uint8), k=2).ravel().tolist()
    [-0.5, 0.0]
    """
    weight = check_quantized(b_packed, scales, zeros, group_size, k)
    xp, k, n = weight.xp, weight.k, weight.n
    dtype = weight.scales.dtype if dtype is None else dtype_of(dtype, OUT_DTYPES)
    w = xp.empty((k, n), dtype)
    for columns in column_strips(n, k, STRIP_WEIGHTS[xp.__name__]):
        exact = exact_weights(weight.b_packed, weight.scales, weight.zeros, weight.group_size, k, columns)
        w[:, columns] = rounded(exact, dtype)
    return w


def exact_weights(
    b_packed: Any,
    scales: Any,
    zeros: Any,
    group_size: int,
    k: int,
    columns: slice,
    compute: Any = np.float32,
) -> Any:
    """Weights (k, columns) in `compute`, float32 or float64, not yet rounded; `columns` starts at a block.

    Symmetric and integer-zero weights are exact in float64 (a code times an 11-bit significand), and in
    float32 too.
    """
    blocks = slice(columns.start // BLOCK_N, -(-columns.stop // BLOCK_N))
    w = unpack(b_packed[blocks], k, columns.stop - columns.start).astype(compute)
    with np.errstate(all="ignore"):  # infinities and NaNs are weights like others, as on a GPU
        for part, groups in groups_of(k, group_size):
            grouped = w[part].reshape(groups.stop - groups.start, -1, w.shape[1])
            grouped -= SYMMETRIC_ZERO if zeros is None else as_wider(zeros[groups, columns], compute)[:, None]
            grouped *= as_wider(scales[groups, columns], compute)[:, None]
            # 0 times a negative scale is -0; sums give +0, and identity activations give these weights.
            grouped += 0
    return w


def column_strips(n: int, per_column: int, limit: int) -> Iterator[slice]:
    """Slices of whole blocks of columns that hold about `limit` numbers, at `per_column` each."""
    step = max(1, limit // (max(per_column, 1) * BLOCK_N)) * BLOCK_N
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def as_wider(x: Any, compute: Any) -> Any:
    # By way of float32, which holds every value: CuPy has no direct cast between bfloat16 and float64.
    return x.astype(np.float32).astype(compute, copy=False)
