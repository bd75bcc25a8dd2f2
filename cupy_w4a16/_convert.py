"""What `python -m cupy_w4a16 convert SOURCE DEST` does: a checkpoint packed for good."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from ._printing import failed, printable
from .checkpoint import load_checkpoint
from .storage import save

_DEVICES = {"numpy": np, "gpu": cupy}


def add_convert(commands: Any) -> None:
    """Add `convert` to the command line."""
    convert = commands.add_parser(
        "convert",
        help="pack a 4-bit checkpoint once and for all",
        description="Read a GPTQ, AWQ or compressed-tensors checkpoint (a safetensors file or a model's "
        "folder) or a GGUF file, pack its layers for our kernels, and write them to a safetensors file that "
        "load() reads. One layer is in memory at a time; the file appears when it is whole.",
    )
    convert.add_argument("source", metavar="SOURCE", help="a file, or a model's folder")
    convert.add_argument("dest", metavar="DEST.safetensors", help="the file to write")
    convert.add_argument("--force", action="store_true", help="replace DEST if it exists")
    convert.add_argument(
        "--device",
        choices=tuple(_DEVICES),
        default="numpy",
        help="where layers are packed; the file is the same (default: %(default)s)",
    )
    convert.add_argument(
        "--names", nargs="+", metavar="PATTERN", help="layers and arrays to take, such as 'model.layers.0.*'"
    )
    convert.add_argument(
        "--dequantize",
        action="store_true",
        help="of a GGUF file, keep tensors of other quantized types as float32 (default: they are an error)",
    )
    convert.set_defaults(run=_run)


def convert_checkpoint(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    force: bool = False,
    device: str = "numpy",
    names: list[str] | None = None,
    dequantize: bool = False,
    progress: bool | None = None,
) -> str:
    """Do it, and say what was done; OSError, ValueError and ImportError as `load_checkpoint` and `save`."""
    path = Path(dest)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no name of a safetensors file: end it in .safetensors")
    if path.is_file() and not force:
        raise FileExistsError(f"{path} exists: pass --force to replace it")
    checkpoint = load_checkpoint(
        source, names=names, xp=_DEVICES[device], dequantize=dequantize, progress=progress
    )
    save(path, checkpoint)
    size = path.stat().st_size
    return f"{path}: {len(checkpoint)} layers and arrays, {size:,} bytes, from {printable(checkpoint.format)}"


def _run(chosen: argparse.Namespace) -> int:
    options = {name: value for name, value in vars(chosen).items() if name != "run"}
    try:
        text = convert_checkpoint(options.pop("source"), options.pop("dest"), **options)
    except (OSError, ValueError, TypeError, ImportError, cupy.cuda.runtime.CUDARuntimeError) as error:
        return failed(printable(str(error)))
    except MemoryError as error:  # the host's, or the GPU's: CuPy's OutOfMemoryError is one
        return failed(printable(f"out of memory while {chosen.source} was converted: {error}"), 1)
    print(text)
    return 0
