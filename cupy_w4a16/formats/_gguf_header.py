"""A look at a GGUF header before the package `gguf` reads it: every count and length must fit into the file.

That reader trusts the header; a count of 2**60 would keep it busy for ever. Source of the layout:
docs/gguf.md of github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Bytes of a value by its type, enum gguf_metadata_value_type; 8 is a string, 9 an array.
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MIN_PAIR_BYTES, _MIN_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 4 + 8


def check_gguf_header(path: Path) -> None:
    """Raise ValueError unless the file has a GGUF header that ends inside of it."""
    with path.open("rb") as file:
        _Walk(file, path).header()


class _Walk:
    """One pass over the header; what has no length of its own is skipped without being read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.left = os.fstat(file.fileno()).st_size

    def header(self) -> None:
        magic = self.file.read(4)
        if magic != _MAGIC:
            raise ValueError(f"{self.path} is no GGUF file: it starts with {magic!r}, not {_MAGIC!r}")
        self.left -= 4
        version = self.number(4)
        if version not in _VERSIONS:
            hint = " (a big-endian file)" if version and version % 65536 == 0 else ""
            raise ValueError(
                f"{self.path} has GGUF version {version}{hint}; served are 2 and 3, little-endian"
            )
        tensors, pairs = self.number(8), self.number(8)
        self.need(
            tensors * _MIN_TENSOR_BYTES + pairs * _MIN_PAIR_BYTES, f"{tensors} tensors and {pairs} keys"
        )
        for _ in range(pairs):
            self.string()
            self.value(self.number(4))
        for _ in range(tensors):
            self.string()
            dims = self.number(4)
            if dims > _MAX_DIMS:
                raise ValueError(f"{self.path} has a tensor of {dims} dimensions; GGUF allows {_MAX_DIMS}")
            sizes = [self.number(8) for _ in range(dims)]
            if math.prod(sizes) >= 1 << 62:
                raise ValueError(f"{self.path} has a tensor of shape {sizes}: no file holds that")
            self.skip(4 + 8, "type and place of a tensor")

    def number(self, size: int) -> int:
        self.need(size, "a number")
        self.left -= size
        return int.from_bytes(self.file.read(size), "little")

    def string(self) -> None:
        self.skip(self.number(8), "a string")

    def value(self, kind: int) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            of, count = self.number(4), self.number(8)
            if of == _STRING:
                self.need(8 * count, f"{count} strings")
                for _ in range(count):
                    self.string()
            else:
                self.skip(count * self.value_bytes(of), f"an array of {count}")
        else:
            self.skip(self.value_bytes(kind), "a value")

    def value_bytes(self, kind: int) -> int:
        if kind not in _VALUE_BYTES:
            raise ValueError(f"{self.path} has a value of type {kind}, which is unknown or nested")
        return _VALUE_BYTES[kind]

    def skip(self, size: int, what: str) -> None:
        self.need(size, what)
        self.left -= size
        self.file.seek(size, os.SEEK_CUR)

    def need(self, size: int, what: str) -> None:
        if size > self.left:
            raise ValueError(
                f"{self.path} is truncated or no GGUF file: its header claims {what}, {size} bytes, where "
                f"{self.left} are left"
            )
