"""Folders that cannot be written, full disks and writes that fail stop nobody and leave no half file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
from helpers.units import Unit

from cupy_w4a16 import _cache
from cupy_w4a16._write import write_whole


@pytest.fixture
def unwritable(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder below a file: not even root can make it."""
    (folders / "file").touch()
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(folders / "file/cache"))
    return folders / "file/cache"


def test_unwritable_folder_warns_once_and_carries_on(
    unwritable: Path, compiles: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(RuntimeWarning, match="CUPY_W4A16_CACHE_DIR") as warned:
        paths = [_cache.load_or_compile(Unit(name)) for name in ("one", "two", "one")]
    assert len(warned) == 1
    assert str(unwritable) in str(warned[0].message)
    assert len(caplog.records) == 1
    assert compiles == ["one", "two"]  # the private folder is a cache too
    assert all(path.exists() for path in paths)


@pytest.mark.usefixtures("unwritable", "compiles")
@pytest.mark.filterwarnings("ignore:the kernel cache")
def test_private_folder_outlives_a_forked_child_and_not_us() -> None:
    cubin = _cache.load_or_compile(Unit())
    (folder,) = _cache._private_folders
    _cache._remove_private(folder, os.getpid() + 1)
    assert cubin.exists()
    _cache._remove_private(folder, os.getpid())
    assert not cubin.exists()


def test_full_disk_falls_back_to_the_private_folder(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch, folders: Path
) -> None:
    write = _cache.write_whole

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".cubin" and path.is_relative_to(folders / "cache"):
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(_cache, "write_whole", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        cubin = _cache.load_or_compile(Unit())
    assert cubin.exists()
    assert _cache.load_or_compile(Unit()) == cubin
    assert compiles == ["copy"]


def test_filled_cache_is_used_where_it_can_only_be_read(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cubin = _cache.load_or_compile(Unit())

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkstemp", "TemporaryFile", "mkdtemp"):
        monkeypatch.setattr(f"tempfile.{name}", read_only)
    monkeypatch.setattr(Path, "mkdir", read_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _cache.load_or_compile(Unit()) == cubin


def test_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="Input/output"):
        write_whole(folder / "file", b"new")
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == b"old"
