"""GGUF, the files of llama.cpp: tensors of type Q4_0 and Q4_1 to packed weights, without rounding codes anew.

A row of a tensor (one output feature) is k / 32 blocks of 32 weights along k. With `d` and `m` float16,
little-endian, and `qs` 16 bytes, whose byte i holds code i in its low and code i + 16 in its high nibble::

    Q4_0   d, qs        18 bytes    w = (q - 8) * d
    Q4_1   d, m, qs     20 bytes    w = q * d + m

Source: `block_q4_0` and `block_q4_1` in `ggml/src/ggml-common.h`, `dequantize_row_q4_0` and
`dequantize_row_q4_1` in `ggml/src/ggml-quants.c` of github.com/ggml-org/llama.cpp; the same in NumPy is its
`gguf-py/gguf/quants.py`.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .._arrays import as_arrays
from .._dtypes import FLOAT16
from .._pack import BLOCK_N, pack, packed_shape
from .._quantize import STRIP_WEIGHTS, QuantizedWeight, column_strips
from .._scalars import as_ints, as_path
from ._gguf_header import check_gguf_header

GROUP = 32  # weights of a block


class _BlockType(NamedTuple):
    number: int  # enum ggml_type, in ggml/include/ggml.h
    block_bytes: int
    codes_at: int


_TYPES = {"Q4_0": _BlockType(2, 18, 2), "Q4_1": _BlockType(3, 20, 4)}

# Kernels subtract float zeros from codes in float16, where q - zero must not overflow.
_MAX_ZERO = float(np.finfo(FLOAT16).max) - 15


def from_gguf(tensor: Any, tensor_type: Any = None, shape: Any = None) -> QuantizedWeight:
    """A Q4_0 or Q4_1 tensor of a GGUF file as a weight of ours, in groups of 32, scales float16.

    Q4_0 is exact: symmetric, and `dequantize` in float32 gives the format's own values. Q4_1 gets float32
    zeros `-m / d`, and `dequantize` in float32 lies within `2**-24 * (|m| + 2 |w|)` of q * d + m (three
    roundings). Where that zero would exceed 65489, d = 0 included, kernels could not subtract it in float16;
    the block's weights differ by less than half a unit in float16's last place there, and it becomes
    `m + 7.5 d` throughout: codes 0, scale 1, zero `-(m + 7.5 d)`.

    Parameters
    ----------
    tensor : gguf.ReaderTensor (`open_gguf` gives them by name); or its bytes, a uint8 array, NumPy or CuPy
    tensor_type : for bytes: "Q4_0" or "Q4_1", or `gguf.GGMLQuantizationType` or its number
    shape : for bytes: (k, n), in GGUF's order of dimensions, which is ours too; k is a multiple of 32

    Returns
    -------
    QuantizedWeight
        `(b_packed, scales, zeros, 32)`, of k rows and n columns. llama.cpp's converter reorders the columns
        of Llama's attn_q and attn_k for its rotary embedding; they stay so.

    Raises
    ------
    TypeError
        `tensor` is no tensor or uint8 array, or bytes come without type or shape, or `shape` is not of
        integers.
    ValueError
        The type is another, the shape is not (k, n) or does not fit the bytes, or a scale is infinite or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import dequantize, from_gguf
    >>> block = np.array([0.5], np.float16).tobytes() + bytes([0x97] * 16)  # codes 7 (first half) and 9
    >>> weight = from_gguf(np.frombuffer(block, np.uint8), "Q4_0", (32, 1))
    >>> dequantize(*weight)[::16].tolist()
    [[-0.5], [0.5]]
    """
    name = "tensor"
    if tensor_type is None and shape is None and hasattr(tensor, "tensor_type"):
        name = f"tensor {tensor.name!r}"
        tensor, tensor_type, shape = tensor.data, tensor.tensor_type, tensor.shape
    block_type = _block_type(name, tensor_type)
    k, n = _sizes(name, shape)
    xp, (data,) = as_arrays({name: tensor})
    if data.dtype != np.uint8:
        raise TypeError(f"{name} is {data.dtype}; the bytes of quantized blocks are needed, as uint8")
    expected = n * (k // GROUP) * block_type.block_bytes
    if data.size != expected:
        raise ValueError(
            f"{name} of shape (k, n) = {(k, n)} takes {expected} bytes, but there are {data.size}: the "
            "file is damaged, or the shape is not in GGUF's order, k first"
        )
    blocks = data.reshape(n, k // GROUP, block_type.block_bytes)
    b_packed = xp.empty(packed_shape(k, n), np.int32)
    scales = xp.empty((k // GROUP, n), FLOAT16)
    zeros = xp.empty((k // GROUP, n), np.float32) if block_type.codes_at == 4 else None
    for columns in column_strips(n, k, STRIP_WEIGHTS[xp.__name__]):
        strip = xp.ascontiguousarray(blocks[columns])
        halves = xp.ascontiguousarray(strip[:, :, : block_type.codes_at]).view(FLOAT16).transpose(1, 0, 2)
        _check_finite(xp, name, halves)
        codes = _codes(xp, strip[:, :, block_type.codes_at :])
        scales[:, columns] = halves[:, :, 0]
        if zeros is not None:
            scales[:, columns], zeros[:, columns], constant = _scales_and_zeros(xp, halves)
            codes *= ~constant.T[:, :, None]
        q = codes.reshape(codes.shape[0], k).T
        b_packed[columns.start // BLOCK_N : -(-columns.stop // BLOCK_N)] = pack(q)
    return QuantizedWeight(b_packed, scales, zeros, GROUP)


def open_gguf(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tensors of a GGUF file by name, memory-mapped: nothing but the header is read before it is used.

    Parameters
    ----------
    path : str or path, a little-endian GGUF file of version 2 or 3, whole (a split model has several)

    Returns
    -------
    dict
        `{name: gguf.ReaderTensor}`. Q4_0 and Q4_1 ones go to `from_gguf`; `tensor.data` of type F16 or F32 is
        a plain array (n, k).

    Raises
    ------
    ImportError
        The package `gguf` is missing.
    TypeError
        `path` names no file.
    OSError
        The file can't be read.
    ValueError
        The file is no GGUF file of version 2 or 3, is truncated, or names a tensor twice.

    Examples
    --------
    >>> tensors = open_gguf("model-q4_0.gguf")  # doctest: +SKIP
    >>> linear = Linear(*from_gguf(tensors["blk.0.ffn_up.weight"]))  # doctest: +SKIP
    """
    path = as_path(path)
    try:
        import gguf
    except ImportError as error:
        raise ImportError(
            f"reading GGUF files needs the package gguf ({error}): pip install gguf (the extra [formats] of "
            "cupy_w4a16 brings it)"
        ) from error
    check_gguf_header(path)
    try:
        return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    except Exception as error:  # the reader looks at no bounds: a damaged file shows as any error
        raise ValueError(
            f"{path} is damaged, or of a kind that the package gguf does not know: {error}"
        ) from error


def _block_type(name: str, tensor_type: Any) -> _BlockType:
    if tensor_type is None:
        raise TypeError(
            f"tensor_type is None: pass 'Q4_0' or 'Q4_1' and shape=(k, n) with the bytes of {name}"
        )
    for known, block_type in _TYPES.items():
        if tensor_type in (known, block_type.number):
            return block_type
    raise ValueError(
        f"{name} is of type {getattr(tensor_type, 'name', tensor_type)}; served are {' and '.join(_TYPES)}: "
        "an unquantized tensor goes to quantize() as tensor.data.T, other types can be dequantized by "
        "gguf.quants.dequantize first"
    )


def _sizes(name: str, shape: Any) -> tuple[int, int]:
    if shape is None:
        raise TypeError(f"shape is None: pass shape=(k, n) with the bytes of {name}")
    sizes = tuple(as_ints("shape", shape, "(k, n), two integers"))
    if len(sizes) != 2 or min(sizes) < 0:
        raise ValueError(
            f"{name} has shape {sizes}; weights are (k, n): of stacked experts (k, n, experts), pass the "
            "bytes of one, data[i], with its type and shape"
        )
    k, n = sizes
    if k % GROUP:
        raise ValueError(f"{name} has k = {k}, no multiple of {GROUP}: in GGUF's order k comes first, (k, n)")
    return k, n


def _check_finite(xp: ModuleType, name: str, halves: Any) -> None:
    if halves.size and not bool(xp.isfinite(halves).all()):
        raise ValueError(f"{name} has a scale or minimum that is infinite or NaN: the file is damaged")


def _codes(xp: ModuleType, qs: Any) -> Any:
    """Bytes (n, blocks, 16) -> codes (n, blocks, 32), uint8."""
    codes = xp.empty((*qs.shape[:2], GROUP), np.uint8)
    codes[:, :, : GROUP // 2] = qs & 15
    codes[:, :, GROUP // 2 :] = qs >> 4
    return codes


def _scales_and_zeros(xp: ModuleType, halves: Any) -> tuple[Any, Any, Any]:
    """Scales, zeros, and which blocks are constant, from pairs (d, m); each (blocks, n)."""
    d, m = (halves[:, :, i].astype(np.float32) for i in range(2))
    constant = (xp.abs(m) > _MAX_ZERO * xp.abs(d)) | (d == 0)
    scale = xp.where(constant, np.float32(1), d)
    zero = -xp.where(constant, m + np.float32(7.5) * d, m) / scale
    return scale.astype(FLOAT16), zero, constant
