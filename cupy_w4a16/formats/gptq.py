"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .._arrays import as_arrays
from .._check_quantized import required
from .._quantize import QuantizedWeight
from ._finish import check_scales, finished, group_size_of
from ._nibbles import PER_WORD, as_words, check_bits, codes_across, codes_down, seems
from ._permuted import PermutedWeight, permutation

# One in each of a word's eight codes.
_ONES = np.uint32(0x11111111)


def from_gptq(
    qweight: Any,
    qzeros: Any,
    scales: Any,
    g_idx: Any = None,
    *,
    bits: int = 4,
    group_size: int | None = None,
    zero_offset: int = 1,
    carry: bool = False,
    symmetric: bool | None = None,
) -> QuantizedWeight | PermutedWeight:
    """A 4-bit GPTQ weight, for `gemm` and `Linear`.

    Row i of the weight (k) has code `qweight[i // 8] >> 4 * (i % 8) & 15`, group `g = g_idx[i]`, and is
    `(code - zero[g]) * scales[g]`, where column j has
    `zero = (qzeros[:, j // 8] >> 4 * (j % 8) & 15) + zero_offset`. `dequantize` gives these very weights in
    the dtype of `scales` (a zero of a negative scale has the other sign).

    Source: AutoGPTQ, `auto_gptq/nn_modules/qlinear/qlinear_cuda.py` (packing, and `forward` for the numbers);
    GPTQModel, `gptqmodel/utils/model.py`, `convert_gptq_v1_to_v2_format` (v2, and the carry).

    Parameters
    ----------
    qweight : int32 array (k / 8, n), NumPy or CuPy; the others are of the same library
    qzeros : int32 array (ceil(k / group_size), n / 8); None: every zero is 8
    scales : array (ceil(k / group_size), n), float16 or bfloat16; kept, not copied, where contiguous
    g_idx : integers (k,), the group of each row; None: groups are runs of k
    bits : int, of the checkpoint's configuration; 4 is served
    group_size : int, of the configuration: a power of two from 32, -1, or k and more (which become -1)
        None takes what fits the rows of `scales`.
    zero_offset : int, 1 or 0
        1 for `"checkpoint_format": "gptq"` (v1), which stores zero - 1, so that 15 means 16; 0 for
        `"gptq_v2"`. (Some v1 checkpoints store v2's zeros: symmetric ones then have 8, not 7.)
    carry : bool, how v1 is read where a stored zero is 15; the two ways differ nowhere else
        False: as 16, as AutoGPTQ does. True: 1 is added to each code of a word with a carry into the next, as
        GPTQModel does, whose v1 files keep a zero of 0 so.
    symmetric : bool, or None
        None: `zeros` is None in the result if all are 8, which is faster; True: anything else is an error;
        False: zeros are kept.

    Returns
    -------
    QuantizedWeight or PermutedWeight
        `QuantizedWeight(b_packed, scales, zeros, group_size)`, zeros None or uint8 from 0 to 16; or, where
        `g_idx` mixes the rows (act-order), `PermutedWeight(weight, perm)`: `Linear(*weight, perm=perm)`.

    Raises
    ------
    TypeError
        A tensor is of a dtype that is not served, or NumPy and GPU arrays are mixed.
    ValueError
        Shapes do not fit together, groups are of other or unequal sizes, bits are not 4; the message names
        the tensor.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import dequantize, from_gptq
    >>> qweight = np.full((16, 8), 0x76543210, np.int32)  # 128 rows: 0 to 7, and again
    >>> qzeros = np.full((1, 1), 0x77777777, np.int32)  # stored 7 means 8
    >>> scales = np.full((1, 8), 0.5, np.float16)
    >>> weight = from_gptq(qweight, qzeros, scales)
    >>> weight.zeros is None, weight.group_size
    (True, -1)
    >>> dequantize(*weight)[:4, 0].tolist()
    [-4.0, -3.5, -3.0, -2.5]
    """
    check_bits(bits)
    required(qweight=qweight, scales=scales)
    if zero_offset not in (0, 1):
        raise ValueError(f"zero_offset is {zero_offset!r}: allowed are 1 (gptq, v1) and 0 (gptq_v2)")
    xp, (qweight, qzeros, scales, g_idx) = as_arrays(
        {"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": g_idx}
    )
    words = as_words("qweight", qweight, "(k / 8, n)")
    check_scales(xp, "scales", scales, "(ceil(k / group_size), n)")
    k, n = PER_WORD * words.shape[0], words.shape[1]
    if scales.shape[1] != n:
        raise ValueError(
            f"scales is of shape {tuple(scales.shape)}, but qweight of shape {tuple(words.shape)} has "
            f"n = {n} columns: (ceil(k / group_size), n) is needed, as of one layer"
        )
    zeros = None if qzeros is None else ("qzeros", _zeros(xp, qzeros, scales.shape, zero_offset, carry))
    if g_idx is not None and g_idx.size != k:
        raise ValueError(
            f"g_idx is of shape {tuple(g_idx.shape)}, but qweight of shape {tuple(words.shape)} has k = {k}"
            f"{seems(words.shape[0], g_idx.size)}"
        )
    group_size = group_size_of("scales", scales.shape[0], k, group_size)
    perm = permutation(xp, "g_idx", g_idx, k, group_size)
    return finished(xp, codes_down(xp, words), scales, zeros, group_size, symmetric, perm)


def _zeros(xp: ModuleType, qzeros: Any, shape: tuple[int, int], zero_offset: int, carry: bool) -> Any:
    words = as_words("qzeros", qzeros, "(ceil(k / group_size), n / 8)")
    if words.shape[0] != shape[0] or PER_WORD * words.shape[1] != shape[1]:
        raise ValueError(
            f"qzeros is of shape {tuple(words.shape)}, but scales of shape {tuple(shape)} needs "
            f"({shape[0]}, {shape[1]} / 8), one zero for every scale{seems(words.shape[1], shape[1])}"
        )
    if zero_offset and carry:
        return codes_across(xp, words + _ONES)
    return codes_across(xp, words) + np.uint8(zero_offset)
