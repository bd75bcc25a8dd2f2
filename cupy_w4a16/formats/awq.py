"""AWQ checkpoints, as AutoAWQ writes them (version "gemm")."""

from __future__ import annotations

from typing import Any

from .._arrays import as_arrays
from .._check_quantized import required
from .._quantize import QuantizedWeight
from ._finish import check_scales, finished, group_size_of
from ._nibbles import PER_WORD, as_words, check_bits, codes_across, seems

#: Which of eight columns a word's codes are, from the lowest bits up.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_VERSIONS = "AutoAWQ's version 'gemm' is served, 'gemv' and 'gemv_fast' are not"


def from_awq(
    qweight: Any,
    qzeros: Any,
    scales: Any,
    *,
    bits: int = 4,
    group_size: int | None = None,
    symmetric: bool | None = None,
) -> QuantizedWeight:
    """A 4-bit AWQ weight, for `gemm` and `Linear`.

    A word holds eight neighbouring columns, from the lowest bits up columns 0 2 4 6 1 3 5 7 of them; zeros
    are packed likewise. A weight is `(code - zero) * scale`, without an offset, groups are runs of k:
    `dequantize` gives these very weights in the dtype of `scales` (a zero of a negative scale has the other
    sign).

    Source: AutoAWQ, `awq/modules/linear/gemm.py` (`from_linear`) and `awq/utils/packing_utils.py`
    (`dequantize_gemm`).

    Parameters
    ----------
    qweight : int32 array (k, n / 8), NumPy or CuPy; the others are of the same library
    qzeros : int32 array (ceil(k / group_size), n / 8); None: every zero is 8
    scales : array (ceil(k / group_size), n), float16 or bfloat16; kept, not copied, where contiguous
    bits : int, of the checkpoint's configuration (`"bits"`, `"w_bit"`); 4 is served
    group_size : int, of the configuration: a power of two from 32, -1, or k and more (which become -1)
        None takes what fits the rows of `scales`.
    symmetric : bool, or None
        None: `zeros` is None in the result if all are 8, which is faster; True: anything else is an error;
        False: zeros are kept.

    Returns
    -------
    QuantizedWeight
        `(b_packed, scales, zeros, group_size)`, zeros None or uint8 from 0 to 15.

    Raises
    ------
    TypeError
        A tensor is of a dtype that is not served, or NumPy and GPU arrays are mixed.
    ValueError
        Shapes do not fit together, groups are of other sizes, bits are not 4; the message names the tensor.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import dequantize, from_awq
    >>> qweight = np.full((128, 1), 0x75316420, np.int32)  # columns of 0, 1, 2, ... 7
    >>> qzeros = np.full((1, 1), 0x22222222, np.int32)
    >>> scales = np.full((1, 8), 0.5, np.float16)
    >>> dequantize(*from_awq(qweight, qzeros, scales))[0].tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    """
    check_bits(bits)
    required(qweight=qweight, scales=scales)
    xp, (qweight, qzeros, scales) = as_arrays({"qweight": qweight, "qzeros": qzeros, "scales": scales})
    words = as_words("qweight", qweight, f"(k, n / 8); {_VERSIONS}")
    check_scales(xp, "scales", scales, "(ceil(k / group_size), n)")
    k, (groups, n) = words.shape[0], scales.shape
    if PER_WORD * words.shape[1] != n:
        raise ValueError(
            f"qweight is of shape {tuple(words.shape)}, but scales of shape {tuple(scales.shape)} has "
            f"n = {n} columns, and (k, n / 8) is needed{seems(words.shape[1], n)}; {_VERSIONS}"
        )
    zeros = None
    if qzeros is not None:
        zero_words = as_words("qzeros", qzeros, "(ceil(k / group_size), n / 8)")
        if zero_words.shape != (groups, words.shape[1]):
            raise ValueError(
                f"qzeros is of shape {tuple(zero_words.shape)}, but scales of shape {tuple(scales.shape)} "
                f"needs {(groups, words.shape[1])}, one zero for every scale{seems(zero_words.shape[1], n)}; "
                f"{_VERSIONS}"
            )
        zeros = ("qzeros", codes_across(xp, zero_words, _ORDER))
    group_size = group_size_of("scales", groups, k, group_size)
    weight = finished(xp, codes_across(xp, words, _ORDER), scales, zeros, group_size, symmetric, None)
    assert isinstance(weight, QuantizedWeight)  # without a permutation
    return weight
