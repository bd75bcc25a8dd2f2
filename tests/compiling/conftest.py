"""A cache of every test's own, and units that compile here at no cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from cupy_w4a16 import _cache, _compiler, _worker


@pytest.fixture(autouse=True)
def cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; the headers are the real ones, since workers look for theirs."""
    monkeypatch.delenv("CUPY_W4A16_COMPILE", raising=False)
    monkeypatch.setattr(_cache, "_private_folders", [])
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    return cache


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of units that this process compiles itself, at no cost."""
    names: list[str] = []

    def compile_source(source: str, name: str) -> _compiler.Compiled:
        names.append(name)
        return _compiler.Compiled(source.encode(), "", ())

    monkeypatch.setattr(_compiler, "compile_source", compile_source)
    return names


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker, "python", lambda: None)
