"""Checkpoints of compressed-tensors (llm-compressor), format "pack-quantized"."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .._arrays import as_arrays
from .._check_quantized import required
from .._quantize import QuantizedWeight
from .._rounding import SYMMETRIC_ZERO
from .._scalars import as_ints
from ._finish import check_scales, finished, group_size_of
from ._nibbles import PER_WORD, as_words, check_bits, codes_across, codes_down, seems
from ._permuted import PermutedWeight, permutation


def from_compressed_tensors(
    weight_packed: Any,
    weight_scale: Any,
    weight_zero_point: Any = None,
    weight_shape: Any = None,
    weight_g_idx: Any = None,
    *,
    bits: int = 4,
    group_size: int | None = None,
    symmetric: bool | None = None,
) -> QuantizedWeight | PermutedWeight:
    """A 4-bit weight of compressed-tensors' format "pack-quantized", for `gemm` and `Linear`.

    The format keeps weights as `(n, k)`. Column i of k has code
    `weight_packed[:, i // 8] >> 4 * (i % 8) & 15`, which is the signed number + 8; zero points are packed
    likewise along n. A weight is `(number - zero_point) * scale`: `dequantize` gives these very weights,
    transposed to `(k, n)`, in the dtype of `weight_scale` (a zero of a negative scale has the other sign).
    Strategies "group" and "channel" are served, "tensor" and "block" are not.

    Source: compressed-tensors, `compressors/quantized_compressors/pack_quantized.py` (`pack_to_int32`) and
    `quantization/lifecycle/forward.py` (`dequantize`; a -1 in `g_idx`).

    Parameters
    ----------
    weight_packed : int32 array (n, ceil(k / 8)), NumPy or CuPy; the others are of the same library
    weight_scale : array (n, groups), float16 or bfloat16; one group for the strategy "channel"
    weight_zero_point : int32 array (ceil(n / 8), groups), or int8 array (n, groups) from -8 to 7
        The latter is what older versions wrote. None: symmetric, zero point 0.
    weight_shape : n and k, two integers, in any array or sequence; None: k is 8 x the words of a row
    weight_g_idx : integers (k,), the group of each k (`"actorder": "group"`)
        None, or a -1 in it, which means that it was never set: groups are runs of k.
    bits : int, of the checkpoint's configuration (`"num_bits"`); 4 is served
    group_size : int, of the configuration: a power of two from 32, -1, or k and more (which become -1)
        None takes what fits the columns of `weight_scale`.
    symmetric : bool, or None
        None: `zeros` is None in the result if all are 8, which is faster; True: anything else is an error;
        False: zeros are kept.

    Returns
    -------
    QuantizedWeight or PermutedWeight
        `QuantizedWeight(b_packed, scales, zeros, group_size)`, zeros None or uint8 from 0 to 15 (zero point
        + 8); or, where `weight_g_idx` mixes k (act-order), `PermutedWeight(weight, perm)`:
        `Linear(*weight, perm=perm)`.

    Raises
    ------
    TypeError
        A tensor is of a dtype that is not served, `weight_shape` is not of integers, or NumPy and GPU arrays
        are mixed.
    ValueError
        Shapes do not fit together, groups are of other or unequal sizes, bits are not 4; the message names
        the tensor.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import dequantize, from_compressed_tensors
    >>> weight_packed = np.full((64, 16), 0x76543210, np.int32)  # -8 to -1, and again
    >>> weight_scale = np.full((64, 1), 0.5, np.float16)
    >>> weight = from_compressed_tensors(weight_packed, weight_scale, weight_shape=(64, 128))
    >>> dequantize(*weight)[:4, 0].tolist()  # (k, n)
    [-4.0, -3.5, -3.0, -2.5]
    """
    check_bits(bits)
    required(weight_packed=weight_packed, weight_scale=weight_scale)
    xp, (weight_packed, weight_scale, zero_point, g_idx) = as_arrays(
        {
            "weight_packed": weight_packed,
            "weight_scale": weight_scale,
            "weight_zero_point": weight_zero_point,
            "weight_g_idx": weight_g_idx,
        }
    )
    words = as_words("weight_packed", weight_packed, "(n, ceil(k / 8))")
    n, k = _shape(weight_shape, words.shape)
    check_scales(xp, "weight_scale", weight_scale, "(n, groups), with one group for the strategy 'channel'")
    if weight_scale.shape[0] != n:
        raise ValueError(
            f"weight_scale is of shape {tuple(weight_scale.shape)}, but weight_packed of shape "
            f"{tuple(words.shape)} has n = {n} rows: (n, groups) is needed; the strategies 'group' "
            "and 'channel' are served"
        )
    zeros = None if zero_point is None else ("weight_zero_point", _zeros(xp, zero_point, weight_scale.shape))
    group_size = group_size_of("weight_scale", weight_scale.shape[1], k, group_size)
    if g_idx is not None and g_idx.dtype.kind == "i" and bool((g_idx == -1).any()):
        g_idx = None
    perm = permutation(xp, "weight_g_idx", g_idx, k, group_size)
    codes = codes_across(xp, words)[:, :k].T
    return finished(xp, codes, weight_scale.T, zeros, group_size, symmetric, perm)


def _shape(weight_shape: Any, packed: tuple[int, int]) -> tuple[int, int]:
    """n and k, which must fit the words."""
    rows, words = packed
    if weight_shape is None:
        return rows, PER_WORD * words
    sizes = as_ints("weight_shape", weight_shape, "n and k, two integers")
    if len(sizes) != 2 or min(sizes) < 0:
        raise ValueError(f"weight_shape holds {sizes}: two sizes are needed, n and k")
    n, k = sizes
    if rows != n or words != -(-k // PER_WORD):
        raise ValueError(
            f"weight_packed is of shape {tuple(packed)}, but weight_shape says n = {n}, k = {k}, and "
            f"(n, ceil(k / 8)) = {(n, -(-k // PER_WORD))} is needed{seems(words, k) if rows == n else ''}"
        )
    return n, k


def _zeros(xp: ModuleType, zero_point: Any, shape: tuple[int, int]) -> Any:
    """Zeros (groups, n), 0 to 15, of the packed or the plain zero points of scales (n, groups)."""
    n, groups = shape
    packed = (-(-n // PER_WORD), groups)
    if zero_point.dtype == np.int8:
        if zero_point.shape != shape:
            raise ValueError(
                f"weight_zero_point is int8 of shape {tuple(zero_point.shape)}: it must be that of "
                f"weight_scale, {tuple(shape)}, or int32 of shape {packed}"
            )
        if zero_point.size and (int(zero_point.min()) < -8 or int(zero_point.max()) > 7):
            raise ValueError(
                f"weight_zero_point holds numbers from {int(zero_point.min())} to {int(zero_point.max())}: "
                "those of 4 bits go from -8 to 7, and only 4 bits are served"
            )
        return (zero_point + np.int8(SYMMETRIC_ZERO)).astype(np.uint8).T
    words = as_words("weight_zero_point", zero_point, f"{packed}; or int8, {tuple(shape)}")
    if words.shape != packed:
        raise ValueError(
            f"weight_zero_point is of shape {tuple(words.shape)}, but weight_scale of shape {tuple(shape)} "
            f"needs (ceil(n / 8), groups) = {packed}{seems(words.shape[0], n)}"
        )
    return codes_down(xp, words)[:n].T
