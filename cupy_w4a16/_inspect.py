"""What `python -m cupy_w4a16 inspect FILE` prints: what a safetensors file holds, by its header."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from .formats._safetensors import Safetensors
from .storage import FORMAT, Weights


def add_inspect(commands: Any) -> None:
    """Add `inspect` to the command line."""
    inspect = commands.add_parser(
        "inspect",
        help="show what a safetensors file holds",
        description="Show names, shapes, group sizes, dtypes and bytes of the weights in a file that save() "
        "wrote, or the tensors of any other safetensors file. It reads the header alone and needs no GPU.",
    )
    inspect.add_argument("file", metavar="FILE", help="a safetensors file")
    inspect.set_defaults(run=_run)


def format_file(path: str | os.PathLike[str]) -> str:
    """A table of the file's contents, a line a weight or tensor, and its totals."""
    file = Safetensors(path)
    total = sum(entry.nbytes for entry in file.entries.values())
    if file.metadata.get("format") == FORMAT:
        weights = Weights(path)
        rows: list[tuple[str, ...]] = [("name", "shape", "group size", "dtypes", "bytes")]
        rows += [_weight_row(weights, name) for name in weights]
        what = f"{len(weights)} weights, packed layout {file.metadata['packed_layout_version']}"
    else:
        rows = [("name", "shape", "dtype", "bytes")]
        rows += [
            (_printable(name), str(entry.shape), _printable(entry.dtype), f"{entry.nbytes:,}")
            for name, entry in file.entries.items()
        ]
        what = f"{len(file.entries)} tensors, not of {FORMAT}"
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                *(cell.ljust(width) for cell, width in zip(row, widths[:-1], strict=False)),
                row[-1].rjust(widths[-1]),
            ]
        )
        for row in rows
    ]
    return "\n".join([*lines, f"{what}, {total:,} bytes"])


def _weight_row(weights: Weights, name: str) -> tuple[str, str, str, str, str]:
    parts, options = weights.parts(name), weights.options(name)
    nbytes = f"{sum(entry.nbytes for entry in parts.values()):,}"
    if "" in parts:
        return _printable(name), str(parts[""].shape), "", _printable(parts[""].dtype), nbytes
    blocks, scales = parts.get("b_packed"), parts.get("scales")
    n = scales.shape[-1] if scales and scales.shape else "?"
    k = options.get("k") or (f"<= {128 * blocks.shape[1]}" if blocks and len(blocks.shape) == 3 else "?")
    dtypes = ", ".join(f"{key} {entry.dtype}" for key, entry in parts.items() if key != "b_packed")
    return _printable(name), f"k {k}, n {n}", str(options.get("group_size")), _printable(dtypes), nbytes


def _printable(text: str) -> str:
    """`text`, quoted where it would move the cursor or colour a terminal."""
    return text if text.isprintable() else ascii(text)


def _run(chosen: argparse.Namespace) -> int:
    try:
        print(format_file(chosen.file))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
