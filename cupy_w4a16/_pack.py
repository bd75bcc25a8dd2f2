"""The packed layout of 4-bit weights: the one definition that the kernels, `gemm` and the tests share.

A weight matrix of k rows (the reduction) and n columns (the output features) holds codes 0..15. Packed, it is
`b_packed`: int32, C-contiguous, (ceil(n / 64), ceil(k / 128), 1024). Block (i, j) is 4096 contiguous bytes
with columns 64i..64i+63 and k 128j..128j+127, so `b_packed[i0:i1]` cuts columns, `b_packed[:, j0:j1]` cuts k,
and one bulk copy brings a block. Past the ends of n and k stands code 8, the zero of symmetric weights.

**Words in a block.** A block is 4 tiles of 16 columns x 2 halves of 64 k x 4 steps of 16 k. One word holds
what one lane of a warp needs for one (tile, half, step): its part of the A fragment of `wgmma` m64k16 with A
from registers, which is that of `mma.sync` m16n8k16 too. Lane 4g + c (g 0..7, c 0..3) of (tile, half) finds
its four steps in four neighbouring words, one 16-byte load; a warp reads 512 contiguous bytes::

    word x = ((tile * 2 + half) * 32 + 4 * g + c) * 4 + step

    block   | tile 0                      | tile 1 | tile 2 | tile 3 |      1024 words
    tile    | half 0        | half 1        |                                256 words
    half    | lane 0 | lane 1 | ... | lane 31 |                              128 words
    lane    | step 0 | step 1 | step 2 | step 3 |                              4 words = 16 bytes

**Codes in a word.** The fragment has 16 rows; here row r is column 2 * (r % 8) + r // 8 of the tile, so that
the rows g and g + 8 of a lane are the *neighbouring* columns 2g and 2g + 1: one 4-byte load brings both
scales, and results pair up for stores. The fragment's four registers, two k each, are, with
`col = 64i + 16 tile + 2g` and `k0 = 128j + 64 half + 16 step + 2c`::

                 even k            odd k
    a0      (k0,     col    ) (k0 + 1, col    )
    a1      (k0,     col + 1) (k0 + 1, col + 1)
    a2      (k0 + 8, col    ) (k0 + 9, col    )
    a3      (k0 + 8, col + 1) (k0 + 9, col + 1)

    bit    33..30  29..26  25..22  21..18  17..14  13..10   9..6    5..2       (bits 32, 33 are bits 0, 1)
    code   a3 odd  a2 odd  a1 odd  a0 odd  a3 even a2 even a1 even a0 even

that is, eight plain nibbles a0..a3 even, a0..a3 odd from bit 0 up, rotated left by 2.

Why rotated: `w & 0x003C003C` and `w & 0x03C003C0`, on w and on w rotated right by 8, leave every code at bits
2..5 or 6..9 of its 16-bit half, even k below odd k, ready for a register of two halves. There a code is at
once the mantissa of a float16 (or with 0x6400 on top 1024 + 4 q) and a denormal with headroom for a
normalised scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np

from ._arrays import as_arrays
from ._scalars import as_int

#: Changes whenever a `b_packed` saved by an older version would be read wrongly.
PACKED_LAYOUT_VERSION = 1

BLOCK_N = 64
BLOCK_K = 128
BLOCK_WORDS = 1024
BLOCK_BYTES = 4 * BLOCK_WORDS
PAD_CODE = 8

# Codes handled at once: bounds the temporary memory (about 3 bytes a code on top of argument and result). The
# GPU takes long strips, so that kernel launches stay few; a CPU short ones, that stay in its cache.
_STRIP_CODES = {"numpy": 1 << 20, "cupy": 1 << 26}


def packed_shape(k: int, n: int) -> tuple[int, int, int]:
    """The shape of `b_packed`: blocks of columns, blocks of k, words.

    >>> packed_shape(200, 3)
    (1, 2, 1024)
    """
    return -(-n // BLOCK_N), -(-k // BLOCK_K), BLOCK_WORDS


def pack(q: Any) -> Any:
    """Codes 0..15 in natural order, packed into the layout the kernels read.

    Parameters
    ----------
    q : array (k, n) of integers 0..15
        Any integer dtype (uint8 is fastest), any strides, NumPy or CuPy. k is the reduction, n the output
        features; codes kept as (n, k) are passed as `q.T`.

    Returns
    -------
    int32 array (ceil(n / 64), ceil(k / 128), 1024)
        `b_packed`, C-contiguous; padded with code 8. The module `cupy_w4a16._pack` describes the order of
        words and bits.

    Raises
    ------
    TypeError
        `q` is no NumPy or GPU array, or not of integers.
    ValueError
        `q` does not have two dimensions, or a code lies outside 0..15.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import pack, unpack
    >>> q = np.arange(200 * 3, dtype=np.uint8).reshape(200, 3) % 16
    >>> b_packed = pack(q)
    >>> b_packed.shape, b_packed.dtype.name
    ((1, 2, 1024), 'int32')
    >>> np.array_equal(unpack(b_packed, 200, 3), q)
    True
    """
    xp, (q,) = as_arrays({"q": q})
    if q.dtype.kind not in "iu":
        raise TypeError(f"q has dtype {q.dtype}; codes are integers 0..15: pass q.astype('uint8')")
    if q.ndim != 2:
        raise ValueError(f"q has shape {q.shape}; codes are (k, n), two dimensions: reshape it first")
    k, n = q.shape
    b_packed = xp.empty(packed_shape(k, n), np.int32)
    blocks_n, blocks_k, _ = b_packed.shape
    for i, j in _strips(xp, blocks_n, blocks_k):
        codes = q[:, i * BLOCK_N : j * BLOCK_N]
        _check_codes(codes)
        padded = (blocks_k * BLOCK_K, (j - i) * BLOCK_N)
        if codes.shape != padded or codes.dtype != np.uint8:
            whole = xp.full(padded, PAD_CODE, np.uint8)
            whole[: codes.shape[0], : codes.shape[1]] = codes
            codes = whole
        b_packed[i:j] = _words(xp, codes).view(np.int32)
    return b_packed


def unpack(b_packed: Any, k: int, n: int) -> Any:
    """The codes of a packed weight in natural order: the inverse of `pack`.

    Parameters
    ----------
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024), as `pack` makes it, NumPy or CuPy
    k, n : int, rows (reduction) and columns (output features)
        What lies beyond them in the blocks is dropped.

    Returns
    -------
    uint8 array (k, n)
        `q`, codes 0..15, C-contiguous.

    Raises
    ------
    TypeError
        `b_packed` is no NumPy or GPU array, or not int32; `k` or `n` is no integer.
    ValueError
        The shape of `b_packed` is not that of a packed (k, n) matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import pack, unpack
    >>> unpack(pack(np.full((2, 3), 7, np.uint8)), 2, 3).tolist()
    [[7, 7, 7], [7, 7, 7]]
    """
    xp, (b_packed,) = as_arrays({"b_packed": b_packed})
    if b_packed.dtype != np.int32:
        raise TypeError(
            f"b_packed has dtype {b_packed.dtype}; int32 is needed: pass what pack() or quantize() returned"
        )
    k, n = as_int("k", k), as_int("n", n)
    expected = packed_shape(k, n)
    if k < 0 or n < 0 or b_packed.shape != expected:
        raise ValueError(
            f"b_packed has shape {b_packed.shape}; codes of k={k}, n={n} are packed in {expected}, "
            f"which is (ceil(n / {BLOCK_N}), ceil(k / {BLOCK_K}), {BLOCK_WORDS}): check k and n"
        )
    q = xp.empty((k, n), np.uint8)
    for i, j in _strips(xp, *expected[:2]):
        codes = _codes(xp, xp.ascontiguousarray(b_packed[i:j]).view(np.uint32))
        columns = q[:, i * BLOCK_N : j * BLOCK_N]
        columns[...] = codes[:k, : columns.shape[1]]
    return q


def _strips(xp: ModuleType, blocks_n: int, blocks_k: int) -> Iterator[tuple[int, int]]:
    """Ranges of column blocks with a bounded number of codes each; none if there is no code at all."""
    if not blocks_k:
        return
    step = max(1, _STRIP_CODES[xp.__name__] // (blocks_k * BLOCK_K * BLOCK_N))
    for start in range(0, blocks_n, step):
        yield start, min(start + step, blocks_n)


def _check_codes(codes: Any) -> None:
    if codes.size and (int(codes.max()) > 15 or (codes.dtype.kind == "i" and int(codes.min()) < 0)):
        raise ValueError(
            f"q holds codes from {int(codes.min())} to {int(codes.max())}; 4-bit codes are 0..15: "
            f"signed weights -8..7 are packed as q + 8"
        )


# The axes of k in a strip of codes are (block, half, step, upper, c, odd), those of n (block, tile, g,
# right): k = 128 block + 64 half + 16 step + 8 upper + 2 c + odd, column = 64 block + 16 tile + 2 g + right.
# Register a_i has i = 2 upper + right.
def _nibbles() -> Iterator[tuple[int, int, int, int]]:
    """(odd, upper, right, its lowest bit in a word before the rotation) of a word's eight codes."""
    for odd, upper, right in product((0, 1), repeat=3):
        yield odd, upper, right, 16 * odd + 8 * upper + 4 * right


def _words(xp: ModuleType, codes: Any) -> Any:
    """uint8 codes of whole blocks -> uint32 (blocks_n, blocks_k, 1024)."""
    rows, columns = codes.shape
    blocks_k, blocks_n = rows // BLOCK_K, columns // BLOCK_N
    fields = codes.reshape(blocks_k, 2, 4, 2, 4, 2, columns // 2, 2)
    words = xp.zeros((blocks_k, 2, 4, 4, columns // 2), np.uint32)
    for odd, upper, right, bit in _nibbles():
        words |= fields[:, :, :, upper, :, odd, :, right].astype(np.uint32) << bit
    words = words << 2 | words >> 30
    # (block k, half, step, c, block n, tile, g) -> (block n, block k, tile, half, g, c, step)
    ordered = words.reshape(blocks_k, 2, 4, 4, blocks_n, 4, 8).transpose(4, 0, 5, 1, 6, 3, 2)
    return ordered.reshape(blocks_n, blocks_k, BLOCK_WORDS)


def _codes(xp: ModuleType, words: Any) -> Any:
    """uint32 (blocks_n, blocks_k, 1024) -> uint8 codes of whole blocks."""
    blocks_n, blocks_k, _ = words.shape
    rows, columns = blocks_k * BLOCK_K, blocks_n * BLOCK_N
    words = words >> 2 | words << 30
    # (block n, block k, tile, half, g, c, step) -> (block k, half, step, c, block n, tile, g)
    natural = words.reshape(blocks_n, blocks_k, 4, 2, 8, 4, 4).transpose(1, 3, 6, 5, 0, 2, 4)
    natural = natural.reshape(blocks_k, 2, 4, 4, columns // 2)
    codes = xp.empty((rows, columns), np.uint8)
    fields = codes.reshape(blocks_k, 2, 4, 2, 4, 2, columns // 2, 2)
    for odd, upper, right, bit in _nibbles():
        fields[:, :, :, upper, :, odd, :, right] = natural >> bit & 15
    return codes
