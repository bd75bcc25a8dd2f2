"""32-bit words of eight 4-bit codes, taken apart: all three formats begin at the lowest bits."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

PER_WORD = 8
BITS = 4
#: Widths that the formats know and we don't serve, so that a message can say which one was found.
_OTHER_BITS = (2, 3, 8)


def check_bits(bits: Any, name: str = "bits") -> None:
    """ValueError, which calls `bits` by `name`, unless it is the integer 4."""
    if not isinstance(bits, (int, np.integer)) or bits != BITS:  # True is an int too, but is not 4
        raise ValueError(
            f"{name} is {shortened(bits)}: only 4-bit codes are served; quantize the model to 4 bits"
        )


def shortened(value: Any) -> str:
    """A value for a message, which what a file holds might fill for pages.

    >>> shortened("4"), len(shortened("4" * 1000))
    ("'4'", 80)
    """
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_words(name: str, x: Any, layout: str) -> Any:
    """`x` as uint32 without a copy; a TypeError or ValueError unless it is 2-D of int32 or uint32."""
    if x.dtype not in (np.dtype(np.int32), np.dtype(np.uint32)):
        raise TypeError(
            f"{name} is {x.dtype} of shape {tuple(x.shape)}: int32 is served, eight 4-bit codes "
            f"a word, {layout}"
        )
    if x.ndim != 2:
        raise ValueError(f"{name} is of shape {tuple(x.shape)}: it must be 2-D, {layout}")
    return x.view(np.uint32)


def seems(words: int, codes: int) -> str:
    """A clause that says which width other than 4 bits would put `codes` codes into `words` words, if any."""
    for bits in _OTHER_BITS:
        if words and words in (-(-codes * bits // 32), -(-codes // (32 // bits))):
            return f"; so many words hold codes of {bits} bits, and only 4 bits are served"
    return ""


def codes_down(xp: ModuleType, words: Any) -> Any:
    """uint8 codes (8 x rows, columns) of words (rows, columns) that hold eight rows each."""
    rows, columns = words.shape
    codes = xp.empty((PER_WORD * rows, columns), np.uint8)
    for i in range(PER_WORD):
        codes[i::PER_WORD] = words >> BITS * i & 15
    return codes


def codes_across(xp: ModuleType, words: Any, order: Sequence[int] = range(PER_WORD)) -> Any:
    """uint8 codes (rows, 8 x columns) of words (rows, columns): code i of one is column `order[i]` of 8."""
    rows, columns = words.shape
    codes = xp.empty((rows, PER_WORD * columns), np.uint8)
    for i, column in enumerate(order):
        codes[:, column::PER_WORD] = words >> BITS * i & 15
    return codes
