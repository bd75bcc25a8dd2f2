"""Entries are whole or made anew; clearing takes ours and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.units import Unit

from cupy_w4a16 import _cache, _key, _toolchain
from cupy_w4a16._errors import CompileError


def test_stored_unit_is_not_compiled_again(compiles: list[str]) -> None:
    first = _cache.load_or_compile(Unit())
    assert _cache.load_or_compile(Unit()) == first == _cache.find(Unit())
    assert compiles == ["copy"]
    assert first.read_bytes() == f"cubin of {Unit().source}".encode()
    assert _key.unit_key(Unit()) in first.name  # CuPy remembers modules by path


def test_entry_keeps_cubin_source_options_and_log(compiles: list[str]) -> None:
    folder = _cache.load_or_compile(Unit()).parent
    assert (folder / "source.cu").read_text() == Unit().source
    assert (folder / "compile.log").read_text() == "Compiling entry function"
    assert "-an-option" in (folder / "entry.json").read_text()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]  # no temporary file is left


def test_real_compile_is_listed_with_its_registers() -> None:
    cubin = _cache.load_or_compile(Unit())
    (entry,) = _cache.entries()
    assert (entry.name, entry.path, entry.size_bytes) == ("copy", cubin, cubin.stat().st_size)
    assert entry.resources[0].kernel == "copy"
    assert entry.nvrtc_version == ".".join(map(str, _toolchain.toolchain().nvrtc_version))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda cubin: os.truncate(cubin, cubin.stat().st_size - 1),
    "emptied": lambda cubin: os.truncate(cubin, 0),
    "flipped": lambda cubin: cubin.write_bytes(bytes([cubin.read_bytes()[0] ^ 1]) + cubin.read_bytes()[1:]),
    "removed": lambda cubin: cubin.unlink(),
    "no-record": lambda cubin: (cubin.parent / "entry.json").unlink(),
    "record-cut": lambda cubin: os.truncate(cubin.parent / "entry.json", 20),
    "record-of-another-kind": lambda cubin: (cubin.parent / "entry.json").write_text("[1, 2]"),
    "record-not-text": lambda cubin: (cubin.parent / "entry.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_compiled_again(damage: str, compiles: list[str]) -> None:
    cubin = _cache.load_or_compile(Unit())
    whole = cubin.read_bytes()
    DAMAGE[damage](cubin)
    assert _cache.find(Unit()) is None
    assert _cache.entries() == []
    assert _cache.load_or_compile(Unit()).read_bytes() == whole
    assert compiles == ["copy", "copy"]


def test_source_that_does_not_compile_is_kept_and_not_cached() -> None:
    broken = Unit(source="#error deliberate\n")
    with pytest.raises(CompileError, match="deliberate") as caught:
        _cache.load_or_compile(broken)
    assert caught.value.source_path is not None
    assert Path(caught.value.source_path).read_text() == broken.source
    assert caught.value.source_path in str(caught.value)
    assert "deliberate" in caught.value.log
    assert _cache.find(broken) is None


def test_clear_cache_removes_our_entries_and_nothing_else(compiles: list[str], folders: Path) -> None:
    cubins = [_cache.load_or_compile(Unit(name)) for name in ("one", "two")]
    others = [folders / "cache" / name for name in ("notes.txt", "other-folder/file", "locks/file")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.touch()
    assert _cache.clear_cache() == 2
    assert not any(cubin.exists() for cubin in cubins)
    assert all(other.exists() for other in others)
    assert _cache.clear_cache() == 0


def test_clear_cache_of_a_folder_that_is_not_there() -> None:
    assert _cache.clear_cache() == 0


def test_cache_is_bounded_and_loses_its_oldest(compiles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "MAX_ENTRIES", 2)
    for age, name in enumerate(("new", "old", "older", "oldest")):
        cubin = _cache.load_or_compile(Unit(name))
        os.utime(cubin.parent, (1e9 - age, 1e9 - age))
    _cache.load_or_compile(Unit("newest"))
    assert [entry.name for entry in _cache.entries()] == ["new", "newest"]
