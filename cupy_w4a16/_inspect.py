"""What `python -m cupy_w4a16 inspect PATH` prints: what a checkpoint or saved file holds, by its headers."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ._printing import failed, printable
from .checkpoint.files import Files, find_files
from .checkpoint.gguf import GgufCheckpoint
from .checkpoint.tensors import TensorCheckpoint
from .formats._safetensors import Safetensors
from .formats.gguf import open_gguf
from .storage import FORMAT, Weights

_TENSOR_ROW = ("name", "shape", "dtype", "bytes")


def add_inspect(commands: Any) -> None:
    """Add `inspect` to the command line."""
    inspect = commands.add_parser(
        "inspect",
        help="show what a checkpoint holds",
        description="Show names, shapes, group sizes, dtypes and bytes of the weights in a file that save() "
        "or convert wrote; or the tensors of any other safetensors or GGUF file, or model's folder, and how "
        "they are quantized. It reads headers alone and needs no GPU.",
    )
    inspect.add_argument("file", metavar="PATH", help="a safetensors or GGUF file, or a model's folder")
    inspect.set_defaults(run=_run)


def format_file(path: str | os.PathLike[str]) -> str:
    """A table of the contents, a line a weight or tensor, and their totals."""
    files = find_files(path)
    if files.is_gguf:
        return _format_gguf(files)
    opened = [Safetensors(each) for each in files.paths]
    total = sum(entry.nbytes for file in opened for entry in file.entries.values())
    if len(opened) == 1 and opened[0].metadata.get("format") == FORMAT:
        weights = Weights(files.paths[0])
        rows: list[tuple[str, ...]] = [("name", "shape", "group size", "dtypes", "bytes")]
        rows += [_weight_row(weights, name) for name in weights]
        version = opened[0].metadata["packed_layout_version"]
        return _table(rows, f"{len(weights)} weights, packed layout {version}, {total:,} bytes")
    rows = [_TENSOR_ROW]
    rows += [
        (printable(name), str(entry.shape), printable(entry.dtype), f"{entry.nbytes:,}")
        for file in opened
        for name, entry in file.entries.items()
    ]
    where = f" in {len(opened)} files" if len(opened) > 1 else ""
    return _table(
        rows, f"{len(rows) - 1} tensors{where}, not of {FORMAT}, {total:,} bytes", _recognised(files)
    )


def _format_gguf(files: Files) -> str:
    tensors = open_gguf(files.paths[0])
    rows: list[tuple[str, ...]] = [_TENSOR_ROW]
    rows += [
        (printable(name), str(tuple(each.shape.tolist())), each.tensor_type.name, f"{each.n_bytes:,}")
        for name, each in tensors.items()
    ]
    total = sum(int(each.n_bytes) for each in tensors.values())
    return _table(rows, f"{len(tensors)} tensors, {total:,} bytes", _recognised(files))


def _recognised(files: Files) -> str:
    """What `load_checkpoint` makes of the tensors, or why it refuses them."""
    try:
        source: Any = GgufCheckpoint(files.paths[0]) if files.is_gguf else TensorCheckpoint(files)
        source.check(source.names)
    except ValueError as error:
        return f"load_checkpoint refuses it: {printable(str(error))}"
    return f"load_checkpoint: {len(source.names)} layers and arrays; {printable(source.format)}"


def _table(rows: list[tuple[str, ...]], *below: str) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row, widths[:-1], strict=False)]
        lines.append("  ".join([*left, row[-1].rjust(widths[-1])]))
    return "\n".join([*lines, *below])


def _weight_row(weights: Weights, name: str) -> tuple[str, str, str, str, str]:
    parts, options = weights.parts(name), weights.options(name)
    nbytes = f"{sum(entry.nbytes for entry in parts.values()):,}"
    if "" in parts:
        return printable(name), str(parts[""].shape), "", printable(parts[""].dtype), nbytes
    blocks, scales = parts.get("b_packed"), parts.get("scales")
    n = scales.shape[-1] if scales and scales.shape else "?"
    k = options.get("k") or (f"<= {128 * blocks.shape[1]}" if blocks and len(blocks.shape) == 3 else "?")
    dtypes = ", ".join(f"{key} {entry.dtype}" for key, entry in parts.items() if key != "b_packed")
    shape, group_size = printable(f"k {k}, n {n}"), printable(str(options.get("group_size")))
    return printable(name), shape, group_size, printable(dtypes), nbytes


def _run(chosen: argparse.Namespace) -> int:
    try:
        text = format_file(chosen.file)
    except (OSError, ValueError, ImportError) as error:
        return failed(printable(str(error)))
    except MemoryError as error:
        return failed(printable(f"out of memory while {chosen.file} was read: {error}"), 1)
    print(text)
    return 0
