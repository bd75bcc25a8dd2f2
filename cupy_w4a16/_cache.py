"""Compiled kernels on disk, stored so that a reader never sees half of one.

An entry is a folder `<unit>-<key>/` with the cubin (`<unit>-<key>.cubin`, since CuPy remembers modules by
path), the CUDA text (`source.cu`), the compiler's log (`compile.log`) and `entry.json` (options, versions,
the cubin's SHA-256). Files are written under another name and renamed, `entry.json` last: an entry whose
checksum does not match is a miss.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _compiler, _paths
from ._errors import CompileError
from ._key import KEY_DIGITS, SCHEMA, Unit, digest, unit_key
from ._toolchain import toolchain
from ._write import write_whole

LOCK_TIMEOUT_S = 60.0  # several times the slowest unit: a holder that takes longer counts as stuck
MAX_ENTRIES = 2000  # about 400 MB, and more than the tests compile; the entries stored longest ago go first

_LOCKS, _FAILED = "cupy_w4a16-locks", "cupy_w4a16-failed"  # in a folder that may hold other things
_log = logging.getLogger("cupy_w4a16")
_ENTRY_NAME = re.compile(rf"[\w.-]+-[0-9a-f]{{{KEY_DIGITS}}}")


@dataclass(frozen=True)
class Entry:
    """One stored unit, as `info` shows it."""

    name: str
    path: Path
    size_bytes: int
    nvrtc_version: str
    resources: tuple[_compiler.Resources, ...]


def find(unit: Unit) -> Path | None:
    """The stored cubin of a unit, checked; None on a miss."""
    return _find(_stem(unit))


def load_or_compile(unit: Unit) -> Path:
    """The path of a unit's cubin, compiled first if the cache has none that is whole.

    Processes and threads that want the same unit at once compile it once; where the cache folder can't be
    written, a folder private to this process serves instead, with one warning. Raises CompileError.
    """
    stem = _stem(unit)
    if cubin := _find(stem):
        return cubin
    folder = writable_folder()
    with _locked(folder, stem):
        if cubin := _find(stem):  # somebody compiled it while we waited
            return cubin
        compiled = _compile(unit)
        try:
            cubin = _store(folder, stem, unit, compiled)
        except OSError as error:  # the disk is full, say
            cubin = _store(_private_folder(folder, error), stem, unit, compiled)
    _prune(folder)
    return cubin


def writable_folder() -> Path:
    """Where new entries go: the cache folder, or the private one if that can't be written."""
    folder = _paths.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        return _private_folder(folder, error)


def clear_cache() -> int:
    """Remove every compiled kernel from the cache folder and say how many units that were.

    Nothing else in the folder is touched, the tuning file neither, and the kernels a process has loaded stay
    usable.

    >>> import os, tempfile, unittest.mock, cupy_w4a16
    >>> empty = {"CUPY_W4A16_CACHE_DIR": tempfile.mkdtemp()}  # not the one we work with
    >>> with unittest.mock.patch.dict(os.environ, empty):
    ...     cupy_w4a16.clear_cache()
    0
    """
    folder = _paths.cache_dir()
    stored = _entry_folders(folder)
    for entry in stored:
        shutil.rmtree(entry, ignore_errors=True)
    for own in (_LOCKS, _FAILED):
        shutil.rmtree(folder / own, ignore_errors=True)
    return len(stored)


def entries() -> list[Entry]:
    """Every whole entry of the cache folder, by name."""
    found = []
    for folder in sorted(_entry_folders(_paths.cache_dir())):
        cubin = _valid_cubin(folder.parent, folder.name)
        if cubin is None:
            continue
        with contextlib.suppress(OSError):  # another process may clear the cache under our feet
            size, log = cubin.stat().st_size, (folder / "compile.log").read_text(errors="replace")
            version = str(_read_record(folder).get("nvrtc_version"))
            name = folder.name.rpartition("-")[0]
            found.append(Entry(name, cubin, size, version, _compiler.parse_resources(log)))
    return found


def _stem(unit: Unit) -> str:
    return f"{unit.name}-{unit_key(unit)}"


def _find(stem: str) -> Path | None:
    folders = (_paths.cache_dir(), *_private_folders)
    return next((cubin for folder in folders if (cubin := _valid_cubin(folder, stem))), None)


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "entry.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _valid_cubin(cache: Path, stem: str) -> Path | None:
    cubin = cache / stem / f"{stem}.cubin"
    expected = _read_record(cubin.parent).get("sha256")
    try:
        return cubin if expected and digest(cubin.read_bytes()) == expected else None
    except OSError:
        return None


def _compile(unit: Unit) -> _compiler.Compiled:
    try:
        return _compiler.compile_source(unit.source, unit.name)
    except CompileError as error:
        kept = _keep_failed(unit)
        raise CompileError(f"{error}\nIts source: {kept}", error.log, kept) from error


def _keep_failed(unit: Unit) -> str | None:
    for folder in (_paths.cache_dir() / _FAILED, Path(tempfile.gettempdir(), _FAILED)):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{unit.name}.cu", unit.source.encode())
            return str(folder / f"{unit.name}.cu")
    return None


def _store(cache: Path, stem: str, unit: Unit, compiled: _compiler.Compiled) -> Path:
    folder = cache / stem
    folder.mkdir(parents=True, exist_ok=True)
    tools = toolchain()
    record = {
        "unit": unit.name,
        "schema": SCHEMA,
        "sha256": digest(compiled.cubin),
        "options": compiled.options,
        "nvrtc_version": ".".join(map(str, tools.nvrtc_version)),
        "nvrtc_path": tools.nvrtc_path,
    }
    cubin = folder / f"{stem}.cubin"
    write_whole(folder / "source.cu", unit.source.encode())
    write_whole(folder / "compile.log", compiled.log.encode())
    write_whole(cubin, compiled.cubin)
    write_whole(folder / "entry.json", json.dumps(record, indent=1).encode())
    return cubin


@contextlib.contextmanager
def _locked(cache: Path, stem: str) -> Iterator[None]:
    """Hold the key's file lock, or carry on without: a second compile is wasteful, not wrong."""
    import filelock

    folder = cache / _LOCKS
    lock = filelock.FileLock(folder / f"{stem}.lock", timeout=LOCK_TIMEOUT_S)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(poll_interval=0.02)
    except filelock.Timeout:
        _log.warning("%s has been locked for %g s; compiling it without the lock", stem, LOCK_TIMEOUT_S)
    except (OSError, NotImplementedError):
        pass  # a file system without locks
    try:
        yield
    finally:
        lock.release()


_private_folders: list[Path] = []
_private_guard = threading.Lock()


def _private_folder(refused: Path, error: OSError) -> Path:
    with _private_guard:
        if not _private_folders:
            _private_folders.append(Path(tempfile.mkdtemp(prefix="cupy_w4a16-")))
            atexit.register(_remove_private, _private_folders[0], os.getpid())
            message = (
                f"the kernel cache {refused} can't be written ({error}): kernels are compiled again in every "
                "process. Set CUPY_W4A16_CACHE_DIR to a writable folder."
            )
            _log.warning(message)
            warnings.warn(message, RuntimeWarning, stacklevel=4)
    return _private_folders[0]


def _remove_private(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child that exits must leave its parent's kernels alone
        shutil.rmtree(folder, ignore_errors=True)


def _entry_folders(cache: Path) -> list[Path]:
    try:
        return [path for path in cache.iterdir() if _ENTRY_NAME.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []


def _prune(cache: Path) -> None:
    stored = _entry_folders(cache)
    if len(stored) <= MAX_ENTRIES:
        return
    with contextlib.suppress(OSError):
        stored.sort(key=lambda entry: entry.stat().st_mtime)
        for entry in stored[: len(stored) - MAX_ENTRIES]:
            shutil.rmtree(entry, ignore_errors=True)
            (cache / _LOCKS / f"{entry.name}.lock").unlink(missing_ok=True)
