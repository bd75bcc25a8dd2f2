"""Arguments that are no arrays, checked: an integer, several of them, the name of a file."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import numpy as np


def as_int(name: str, value: Any) -> int:
    """`value` as a Python integer; TypeError for floats, booleans and the rest."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}: it must be an integer") from None


def as_ints(name: str, values: Any, meaning: str) -> list[int]:
    """`values`, a sequence or an array anywhere, as Python integers; TypeError where it is none of these."""
    # An array on a GPU yields arrays, each of which would be copied: the host gets all at once.
    on_host = values.tolist() if hasattr(values, "tolist") else values
    try:
        found = list(on_host)
    except TypeError:
        raise TypeError(f"{name} is {values!r}: pass {meaning}") from None
    return [as_int(f"{name}[{i}]", value) for i, value in enumerate(found)]


def as_path(path: Any) -> Path:
    """The argument `path`; TypeError or ValueError for what names no file."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path is {path!r}: pass the name of a file, a str or a pathlib.Path")
    if "\0" in os.fspath(path):
        raise ValueError(f"path is {path!r}: no name of a file holds a null character")
    return Path(path)
