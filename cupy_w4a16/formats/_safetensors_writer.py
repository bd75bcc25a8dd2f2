"""Writes a safetensors file tensor by tensor, so that no more than one need be in memory.

The header, which stands first, is known last: room is left for it and filled up with spaces, as the format
allows. Should it not fit, the tensors are copied once behind one that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import cupy
import numpy as np

from .._scalars import as_path
from ._safetensors import MAX_HEADER_BYTES, METADATA, dtype_name

_ALIGN = 8  # the widest dtype's bytes


class SafetensorsWriter:
    """A file that appears at `path`, in place of any other, when `finish` is called, or not at all.

    Of a symbolic link the target is replaced, and the link kept. An OSError names `path`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "x.safetensors")
    >>> with SafetensorsWriter(path, 1000) as writer:
    ...     writer.add("x", np.ones(3, np.float32))
    ...     writer.finish({})
    >>> path.stat().st_size
    1020
    """

    def __init__(self, path: str | os.PathLike[str], header_bytes: int) -> None:
        self.path = as_path(path)
        self._target = Path(os.path.realpath(self.path))
        self._start = _ALIGN + min(header_bytes + -header_bytes % _ALIGN, MAX_HEADER_BYTES)
        self._at = 0
        self._header: dict[str, Any] = {}
        self._last: list[tuple[str, Any]] = []
        self._check_place()
        with self._path_in_errors():
            self._file, self._temporary = self._new_file(self._start)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is to stay has been moved away. Where writing failed, closing tries and fails once more.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def add(self, name: str, x: Any) -> None:
        """Write a NumPy or CuPy array; one of odd size waits, so that all start at their dtype's multiple."""
        dtype_name(name, x.dtype)
        host = cupy.asnumpy(x)
        if host.nbytes % _ALIGN:
            self._last.append((name, host))
        else:
            with self._path_in_errors():
                self._write(name, host)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write what is left, and move the file to its place."""
        with self._path_in_errors():
            for name, x in sorted(self._last, key=lambda item: -item[1].dtype.itemsize):
                self._write(name, x)
            self._write_header(metadata)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._temporary.replace(self._target)

    def _check_place(self) -> None:
        """OSError where nothing could be moved there: said before anything is written."""
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} can't be written: it is a folder; name a file in it")
        if os.path.lexists(self._target) and not self._target.is_file():
            raise FileExistsError(
                f"{self.path} can't be written: it is no regular file; name one, or none yet"
            )
        if not self._target.parent.is_dir():
            raise FileNotFoundError(
                f"{self.path} can't be written: make the folder {self._target.parent} first"
            )

    @contextlib.contextmanager
    def _path_in_errors(self) -> Iterator[None]:
        """OSErrors name `path`; the system's name no file (a full disk) or the temporary one."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _write(self, name: str, x: Any) -> None:
        self._header[name] = {
            "dtype": dtype_name(name, x.dtype),
            "shape": list(x.shape),
            "data_offsets": [self._at, self._at + x.nbytes],
        }
        self._at += x.nbytes
        self._file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))

    def _write_header(self, metadata: Mapping[str, str]) -> None:
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

    def _move_tensors(self, start: int) -> None:
        """Go on with a copy of the file in which the tensors begin at `start`."""
        copy, temporary = self._new_file(start)
        with contextlib.ExitStack() as undo:
            undo.callback(temporary.unlink)
            undo.enter_context(copy)
            self._file.seek(self._start)
            shutil.copyfileobj(self._file, copy, 1 << 24)
            undo.pop_all()
        self._file.close()
        self._temporary.unlink()
        self._file, self._temporary, self._start = copy, temporary, start

    def _new_file(self, start: int) -> tuple[BinaryIO, Path]:
        """A file beside the target, with the rights that the umask leaves, written from `start` on."""
        # As much of the name as surely leaves room for the rest, in bytes: file systems allow 255.
        name = os.fsencode(self._target.name)[:100].decode(errors="ignore")
        path = self._target.with_name(f".{name}.{secrets.token_hex(8)}")
        file = path.open("x+b")
        file.seek(start)
        return file, path
