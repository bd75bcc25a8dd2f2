"""Safetensors files: the header, and one tensor at a time.

A file is 8 bytes with the length of the header (little-endian), the header, and the tensors' bytes. The
header is JSON: `{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {text: text}}`,
offsets from its end; the tensors cover the rest of the file without gap or overlap. Source: README.md,
"Format", of github.com/huggingface/safetensors.

Not by the package `safetensors`, because its NumPy side needs all tensors in host memory to write, and lacks
bfloat16 in older versions. Tests hold the two against each other.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .._dtypes import BFLOAT16

#: The package `safetensors` refuses longer headers too.
MAX_HEADER_BYTES = 100_000_000
_MAX_AXES = 64  # NumPy's limit

#: NumPy's dtypes by the format's words.
DTYPES = {
    "BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8), "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"), "F16": np.dtype("<f2"), "BF16": BFLOAT16, "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"), "F32": np.dtype("<f4"), "U64": np.dtype("<u8"), "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
METADATA = "__metadata__"
# What other files start with that are met under such names.
_OTHERS = {
    b"\x80": "a pickle, which runs code when it is loaded, and is refused",
    b"PK": "a zip archive, as torch.save and numpy.savez write it; pickles inside run code, so it is refused",
    b"GGUF": "a GGUF file: use load_checkpoint or open_gguf",
}


class Entry(NamedTuple):
    """A tensor as the header names it; it lies at bytes `begin` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


class Safetensors:
    """A safetensors file of which the header has been read and checked, and nothing else."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            self._stamp = _stamp(file)
            try:
                start, header = _header(file)
                self.metadata, self.entries = _checked(header, start, os.fstat(file.fileno()).st_size)
            except ValueError as error:
                raise ValueError(f"{self.path} is {_other_kind(file)}: {error}") from error

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`, a new NumPy array."""
        dtype_name, shape, begin, end = self.entries[name]
        dtype = DTYPES.get(dtype_name)
        if dtype is None:
            raise ValueError(
                f"{self.path}: tensor {name!r} has dtype {dtype_name}; readable are {', '.join(DTYPES)}"
            )
        with self.path.open("rb") as file:
            if _stamp(file) != self._stamp:
                raise ValueError(f"{self.path} has changed since its header was read: load it again")
            file.seek(begin)
            data = np.fromfile(file, np.uint8, end - begin)
        if data.size != end - begin:
            raise ValueError(f"{self.path} is truncated inside tensor {name!r}")
        try:
            return data.view(dtype).reshape(shape)
        except ValueError as error:  # no bytes, but more axes or elements than NumPy can count
            raise ValueError(f"{self.path}: tensor {name!r} has shape {shape}: {error}") from error


def dtype_name(name: str, dtype: Any) -> str:
    """The format's word for a dtype; TypeError where there is none."""
    if dtype not in _NAMES:
        raise TypeError(f"{name} is {dtype}; files hold {', '.join(str(known) for known in _NAMES)}")
    return _NAMES[dtype]


def _stamp(file: BinaryIO) -> tuple[int, int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _header(file: BinaryIO) -> tuple[int, Any]:
    """Where the tensors begin, and the header as JSON has it."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise ValueError(f"{size} bytes, too short for the length of a header")
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise ValueError(
            f"its header claims {length} bytes, where {size - 8} are left and {MAX_HEADER_BYTES} are allowed"
        )
    try:
        return 8 + length, json.loads(file.read(length).decode(), object_pairs_hook=without_duplicates)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where it has a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has {twice!r} twice")
    return found


def _checked(header: Any, start: int, size: int) -> tuple[dict[str, str], dict[str, Entry]]:
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its __metadata__ is no object of texts")
    entries = {name: _entry(name, given, start) for name, given in header.items()}
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != at:
            raise ValueError(f"tensor {name!r} begins at byte {entry.begin}, where {at} is expected")
        at = entry.end
    if at != size:
        what = "truncated: its tensors" if at > size else "longer than its tensors, which"
        raise ValueError(f"it is {what} end at byte {at}, the file at {size}")
    return metadata, entries


def _entry(name: str, given: Any, start: int) -> Entry:
    try:
        dtype, shape, (begin, end) = given["dtype"], given["shape"], given["data_offsets"]
        counts = all(type(count) is int and 0 <= count < 1 << 64 for count in (*shape, begin, end))
        sound = isinstance(dtype, str) and counts
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound or end < begin:
        raise ValueError(f"tensor {name!r} lacks a sound dtype, shape and data_offsets")
    if len(shape) > _MAX_AXES:  # said before they are multiplied, which would take time by their square
        raise ValueError(f"tensor {name!r} has {len(shape)} axes, where {_MAX_AXES} are allowed")
    nbytes = end - begin
    # Dtypes that are not known here may be narrower than a byte; their sizes are not checked.
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != nbytes:
        raise ValueError(f"tensor {name!r}, {dtype} of shape {shape}, can't be {nbytes} bytes")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _other_kind(file: BinaryIO) -> str:
    file.seek(0)
    first = file.read(4)
    return next((what for start, what in _OTHERS.items() if first.startswith(start)), "no safetensors file")
