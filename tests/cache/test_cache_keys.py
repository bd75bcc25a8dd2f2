"""One test for each thing that must change an entry's key, or must not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.units import Unit, set_toolchain

from cupy_w4a16 import _compiler, _key

UNIT = Unit()


def key_now(unit: Unit = UNIT) -> str:
    _key.header_digests.cache_clear()
    return _key.unit_key(unit)


def test_same_content_gives_the_same_key() -> None:
    assert key_now() == key_now()


def test_schema_changes_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_now()
    monkeypatch.setattr(_key, "SCHEMA", _key.SCHEMA + 1)
    assert key_now() != before


def test_source_changes_key() -> None:
    assert key_now() != key_now(Unit(source=Unit().source + "\n"))


def test_options_change_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_now()
    monkeypatch.setattr(_key, "BASE_OPTIONS", (*_compiler.BASE_OPTIONS, "-lineinfo"))
    assert key_now() != before


def test_key_tells_where_one_part_ends_and_the_next_begins() -> None:
    assert _key.key("ab", ("c",), (12, 9), {}) != _key.key("a", ("bc",), (12, 9), {})
    assert _key.key("a", ("b", "c"), (12, 9), {}) != _key.key("a", ("bc",), (12, 9), {})


@pytest.mark.parametrize(
    "change",
    [{"nvrtc_version": (12, 99)}, {"cudart_version": (12, 99)}, {"cccl_version": (2, 99, 0)}],
    ids=lambda change: next(iter(change)),
)
def test_toolchain_version_changes_key(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_now()
    set_toolchain(monkeypatch, **change)
    assert key_now() != before


HEADERS = [
    "kernels_src/gemm.cuh",
    "cutlass/arch/barrier.h",
    "cuda/cuda_fp16.h",
    "cuda/cuda_fp16.hpp",
    "cuda/cuda_bf16.h",
    "cuda/cuda_bf16.hpp",
]


@pytest.mark.parametrize("header", HEADERS)
def test_edited_header_changes_key(header: str, folders: Path) -> None:
    before = key_now()
    stamp = (folders / header).stat()
    text = (folders / header).read_text()
    (folders / header).write_text(text.swapcase())  # as long as before, and as old
    os.utime(folders / header, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert key_now() != before
    (folders / header).write_text(text)
    assert key_now() == before


def test_new_and_renamed_headers_change_key(folders: Path) -> None:
    before = key_now()
    (folders / "kernels_src/new.cuh").touch()
    added = key_now()
    (folders / "kernels_src/new.cuh").rename(folders / "kernels_src/renamed.cuh")
    assert len({before, added, key_now()}) == 3


def test_place_of_headers_does_not_change_key(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_now()
    (folders / "kernels_src").rename(folders / "elsewhere")
    monkeypatch.setattr("cupy_w4a16._paths.kernels_src", lambda: folders / "elsewhere")
    assert key_now() == before
