"""A look at a GGUF header before the package `gguf` reads it: all that it claims must fit into the file.

That reader trusts the header: a count of 2**60 would keep it busy for ever, and bytes of another tensor would
be read as weights. Source of the layout: docs/gguf.md of github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Bytes of a value by its type, enum gguf_metadata_value_type; 4 is uint32, 8 a string, 9 an array.
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT, _FILES = "general.alignment", "split.count"
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MIN_PAIR_BYTES, _MIN_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 4 + 8
_NAME_BYTES = 256  # of a longer name this much is looked at and shown


class _Place(NamedTuple):
    """Where a tensor lies, in bytes from the first one's place; `end` only as far as its type is known."""

    begin: int
    end: int
    name: str


def check_gguf_header(path: Path) -> int:
    """The number of files that the model is of, 0 as 1; it needs the package `gguf`, for the sizes of types.

    Raises
    ------
    ValueError
        The header does not end inside the file, or its tensors are not all there, each at a place of its own.
    """
    with path.open("rb") as file:
        walk = _Walk(file, path)
        walk.header()
    return walk.found[_FILES]


class _Walk:
    """One pass over the header; what has no length of its own is skipped without being read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        from gguf import GGML_QUANT_SIZES

        #: By number of a type, weights and bytes of a block.
        self.block_sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
        self.file, self.path = file, path
        self.size = self.left = os.fstat(file.fileno()).st_size
        self.found = {_ALIGNMENT: 32, _FILES: 1}

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
            self.pair()
        self.check_places([self.tensor() for _ in range(tensors)])

    def pair(self) -> None:
        key, kind = self.name(), self.number(4)
        if key == _ALIGNMENT and kind != _UINT32:
            raise ValueError(f"{self.path} is damaged: its {key} is of type {kind}, not {_UINT32} (uint32)")
        if key in self.found and kind in _INTEGERS:
            self.found[key] = self.number(_VALUE_BYTES[kind])
        else:
            self.value(kind)

    def tensor(self) -> _Place:
        name, dims = self.name(), self.number(4)
        if dims > _MAX_DIMS:
            raise ValueError(
                f"{self.path}: tensor {name!r} has {dims} dimensions, where GGUF allows {_MAX_DIMS}"
            )
        sizes = [self.number(8) for _ in range(dims)]
        if math.prod(sizes) >= 1 << 62:
            raise ValueError(f"{self.path}: tensor {name!r} has the shape {sizes}: no file holds that")
        kind, begin = self.number(4), self.number(8)
        weights, nbytes = self.block_sizes.get(kind, (1, 0))
        return _Place(begin, begin + math.prod(sizes) // weights * nbytes, name)

    def check_places(self, places: list[_Place]) -> None:
        alignment = self.found[_ALIGNMENT]
        if alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"{self.path} is damaged: its {_ALIGNMENT} is {alignment}, no power of two")
        start = self.size - self.left
        room = max(0, self.size - (start + -start % alignment))
        last = _Place(0, 0, "")
        for place in sorted(places):
            begin, end, name = place
            if begin % alignment:
                self.misplaced(name, f"begins at byte {begin} of the data, no multiple of {alignment}")
            if begin < last.end:
                self.misplaced(name, f"begins at byte {begin} of the data, inside tensor {last.name!r}")
            if end > room:
                self.misplaced(name, f"lies at bytes {begin} to {end} of the data, where there are {room}")
            last = place

    def misplaced(self, name: str, how: str) -> NoReturn:
        raise ValueError(
            f"{self.path} is damaged or truncated: tensor {name!r} {how}; download or convert it again"
        )

    def number(self, size: int) -> int:
        self.need(size, "a number")
        self.left -= size
        return int.from_bytes(self.file.read(size), "little")

    def string(self) -> None:
        self.skip(self.number(8), "a string")

    def name(self) -> str:
        size = self.number(8)
        self.need(size, "a name")
        first = self.file.read(min(size, _NAME_BYTES))
        self.left -= len(first)
        self.skip(size - len(first), "a name")
        return first.decode(errors="replace")

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
