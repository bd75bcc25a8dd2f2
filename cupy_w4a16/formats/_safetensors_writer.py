"""Writes a safetensors file tensor by tensor, so that no more than one need be in memory.

The header, which stands first, is known last: room is left for it and filled up with spaces, as the format
allows. Should it not fit, the tensors are copied once behind one that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cupy
import numpy as np

from ._safetensors import MAX_HEADER_BYTES, METADATA, dtype_name

_ALIGN = 8  # the widest dtype's bytes


class SafetensorsWriter:
    """A file that appears at `path`, in place of any other, when `finish` is called, or not at all.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "x.safetensors")
    >>> with SafetensorsWriter(path, 1000) as writer:
    ...     writer.add("x", np.ones(3, np.float32))
    ...     writer.finish({})
    >>> path.stat().st_size
    1020
    """

    def __init__(self, path: str | os.PathLike[str], header_bytes: int) -> None:
        self.path = Path(path)
        self._start = _ALIGN + min(header_bytes + -header_bytes % _ALIGN, MAX_HEADER_BYTES)
        self._at = 0
        self._header: dict[str, Any] = {}
        self._last: list[tuple[str, Any]] = []
        self._check_place()
        handle, self._temporary = self._new_file()
        self._file = os.fdopen(handle, "w+b")
        self._file.seek(self._start)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)

    def add(self, name: str, x: Any) -> None:
        """Write a NumPy or CuPy array; one of odd size waits, so that all start at their dtype's multiple."""
        dtype_name(name, x.dtype)
        host = cupy.asnumpy(x)
        if host.nbytes % _ALIGN:
            self._last.append((name, host))
        else:
            self._write(name, host)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write what is left, and move the file to its place."""
        for name, x in sorted(self._last, key=lambda item: -item[1].dtype.itemsize):
            self._write(name, x)
        text = json.dumps({METADATA: dict(metadata), **self._header}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGN)
        if len(text) > MAX_HEADER_BYTES:
            raise ValueError(
                f"the names of {len(self._header)} tensors make a header of {len(text)} bytes, where "
                f"{MAX_HEADER_BYTES} are allowed: write several files"
            )
        if len(text) > self._start - _ALIGN:
            self._move_tensors(_ALIGN + len(text))
        self._file.seek(0)
        self._file.write((self._start - _ALIGN).to_bytes(_ALIGN, "little"))
        self._file.write(text.ljust(self._start - _ALIGN))
        self._file.flush()
        os.fsync(self._file.fileno())
        os.chmod(self._temporary, 0o644)  # mkstemp's 0600 would shut other users out
        os.replace(self._temporary, self.path)

    def _check_place(self) -> None:
        """OSError where nothing could be moved there: said before anything is written."""
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} can't be written: it is a folder; name a file in it")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path} can't be written: make the folder {self.path.parent} first")

    def _write(self, name: str, x: Any) -> None:
        self._header[name] = {
            "dtype": dtype_name(name, x.dtype),
            "shape": list(x.shape),
            "data_offsets": [self._at, self._at + x.nbytes],
        }
        self._at += x.nbytes
        self._file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))

    def _move_tensors(self, start: int) -> None:
        """Go on with a copy of the file in which the tensors begin at `start`."""
        handle, temporary = self._new_file()
        with contextlib.ExitStack() as undo:
            undo.callback(os.unlink, temporary)
            copy = undo.enter_context(os.fdopen(handle, "w+b"))
            copy.seek(start)
            self._file.seek(self._start)
            shutil.copyfileobj(self._file, copy, 1 << 24)
            undo.pop_all()
        self._file.close()
        os.unlink(self._temporary)
        self._file, self._temporary, self._start = copy, temporary, start

    def _new_file(self) -> tuple[int, str]:
        return tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name[:100]}.")
