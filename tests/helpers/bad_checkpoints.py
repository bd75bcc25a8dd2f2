"""A checkpoint to spoil, and the refusal that it then meets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cupy_w4a16 import load_checkpoint
from cupy_w4a16.__main__ import main
from helpers import checkpoints as made
from helpers.checkpoints import layer

X = layer(64, 16)
PLAIN = {"norm": np.ones(8, np.float16)}
INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
G, A, C = made.gptq(X), made.awq(X), made.compressed(X)


def refuse(path: Path, error: type[Exception], message: str) -> None:
    """`load_checkpoint` refuses it, before or while it reads; so does the command line, in one line."""
    with pytest.raises(error, match=message):
        dict(load_checkpoint(path))
    dest = path.parent / "dest.safetensors"
    assert main(["convert", str(path), str(dest)]) == 2
    assert not dest.exists()
    assert not list(path.parent.glob(".dest*"))


def edited_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / INDEX
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def changed(parts: dict[str, np.ndarray], **others: Any) -> dict[str, np.ndarray]:
    return {name: x for name, x in (parts | others).items() if x is not None}
