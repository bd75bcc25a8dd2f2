"""What compiling shows: a line or a bar when it takes long, and otherwise nothing."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest
from helpers.units import unit

from cupy_w4a16 import _build, _compiler


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, no_workers: None) -> None:
    """A compile that takes much longer than what counts as quick."""
    monkeypatch.setattr(_build, "QUIET_S", 0.02)

    def compile_source(source: str, name: str) -> _compiler.Compiled:
        time.sleep(0.2)
        return _compiler.Compiled(source.encode(), "", ())

    monkeypatch.setattr(_compiler, "compile_source", compile_source)


@pytest.mark.usefixtures("slow")
def test_long_compile_says_one_line(capfd: pytest.CaptureFixture[str], cache: Path) -> None:
    _build.compile_kernels([unit(0), unit(1)])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "compiling 2 translation units" in err
    assert str(cache) in err


@pytest.mark.usefixtures("slow")
def test_progress_false_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    _build.compile_kernels([unit(0)], progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_workers", "here")
def test_quick_compile_says_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_build, "QUIET_S", 600.0)
    _build.compile_kernels([unit(0), unit(1)])
    _build.compile_kernels([unit(0), unit(1)])
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("slow")
def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    _build.compile_kernels([unit(0), unit(1)])
    assert "compiling kernels" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


@pytest.mark.usefixtures("slow")
def test_program_without_stderr_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert _build.compile_kernels([unit(0)]) == 1
