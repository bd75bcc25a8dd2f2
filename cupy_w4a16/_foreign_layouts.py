"""Which other library's weight layout a `b_packed` that is not ours looks like; for error messages only."""

from __future__ import annotations

from typing import Any

from ._pack import BLOCK_WORDS

_INTEGERS, _BYTES = ("int32", "uint32"), ("uint8", "int8")
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_TO_CODES = "unpack it to the codes q, (k, n) uint8 from 0 to 15, and call pack(q)"
_FROM_ORIGIN = "start from the checkpoint it was made of: unpack that to the codes q and call pack(q)"
_READ_GPTQ = "read it with from_gptq(qweight, qzeros, scales, g_idx)"
_READ_AWQ = "read it with from_awq(qweight, qzeros, scales)"
_READ_COMPRESSED = "read it with from_compressed_tensors(weight_packed, weight_scale, ...)"
_QUANTIZE = "call gemm(a, *quantize(w)) with w of shape (k, n)"
_AWQ = "an AWQ qweight (k, n / 8), eight columns an integer in the order 0 2 4 6 1 3 5 7"
_COMPRESSED = "a compressed-tensors weight_packed (n, k / 8), eight k an integer"


def _layouts(k: int, n: int) -> tuple[tuple[tuple[str, ...], tuple[int, int], str, str], ...]:
    """The layouts of a weight (k, n): dtypes, shape, name, and what to do about it."""
    return (
        (_INTEGERS, (k // 8, n), "a GPTQ qweight (k / 8, n), eight k an integer", _READ_GPTQ),
        (_INTEGERS, (k, n // 8), _AWQ, _READ_AWQ),
        (_INTEGERS, (n, k // 8), _COMPRESSED, _READ_COMPRESSED),
        (_INTEGERS, (k // 16, 2 * n), "a Marlin weight (k / 16, 2 n)", _FROM_ORIGIN),
        (_BYTES, (k, n), "codes (k, n), one a byte", "call pack(b_packed)"),
        (_BYTES, (n, k), "codes (n, k), one a byte", "call pack(b_packed.T)"),
        (_BYTES, (k // 2, n), "codes (k / 2, n), two k a byte", _TO_CODES),
        (_BYTES, (k, n // 2), "codes (k, n / 2), two columns a byte", _TO_CODES),
        (_BYTES, (n, k // 2), "codes (n, k / 2), two k a byte", _TO_CODES),
        (_FLOATS, (k, n), "weights (k, n) that are not quantized", _QUANTIZE),
        (_FLOATS, (n, k), "weights (n, k) that are not quantized", "call gemm(a, *quantize(w.T))"),
    )


def advice(b_packed: Any, k: int | None, n: int | None) -> str:
    """What `b_packed`, which is not in our layout, looks like, and what to do: a clause that ends a message.

    k and n are those of the other arguments, None where these don't say.

    >>> import numpy as np
    >>> advice(np.zeros((512, 1024), np.int32), 4096, 1024)
    'it looks like a GPTQ qweight (k / 8, n), eight k an integer: read it with from_gptq(...)'
    """
    dtype, shape = b_packed.dtype, tuple(b_packed.shape)
    if len(shape) == 3 and shape[2] == BLOCK_WORDS:
        if dtype.kind in "iu" and dtype.itemsize == 4:
            if not dtype.isnative:  # a view would swap the bytes of every word
                return "the shape is right, the byte order is not: pass b_packed.astype(numpy.int32)"
            return "the shape is right: if the bits are too, pass b_packed.view(numpy.int32)"
        return "the shape is right, the dtype is not: pass the array that pack(q) or quantize(w) gave"
    if k is not None and n is not None:
        layouts = _layouts(k, n)
        found = [(name, todo) for names, form, name, todo in layouts if dtype.name in names and form == shape]
        if found:
            names, todos = (" or ".join(dict.fromkeys(part)) for part in zip(*found, strict=True))
            return f"it looks like {names}: {todos}"
    if dtype.name == "int32" and b_packed.size % BLOCK_WORDS == 0 and len(shape) in (1, 4):
        return "if it holds our words, reshape it to (ceil(n / 64), ceil(k / 128), 1024)"
    if dtype.name in _FLOATS and len(shape) == 2:
        return f"it looks like weights that are not quantized: {_QUANTIZE}"
    return (
        "make it with quantize(w) or pack(q), or read it with from_gptq, from_awq or "
        "from_compressed_tensors; weights of other formats (Marlin) have to be unpacked to codes q, "
        "(k, n) uint8 from 0 to 15, first"
    )
