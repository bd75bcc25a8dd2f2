"""Compiling many units in worker processes, and the mishaps of those."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.units import BROKEN, unit

from cupy_w4a16 import _build, _cache, _worker
from cupy_w4a16._errors import CompileError


def test_workers_fill_the_cache_for_this_process(here: list[str]) -> None:
    units = [unit(number) for number in range(3)]
    assert _build.compile_kernels(units) == 3
    assert here == []
    assert all(_cache.find(each) for each in units)
    assert _build.compile_kernels(units) == 0


def test_one_failure_is_raised_after_the_others_are_compiled(here: list[str]) -> None:
    with pytest.raises(CompileError, match="deliberate") as caught:
        _build.compile_kernels([unit(0), BROKEN, unit(1)])
    assert "deliberate" in caught.value.log
    assert caught.value.source_path is not None
    assert Path(caught.value.source_path).read_text() == BROKEN.source
    assert _cache.find(unit(0))
    assert _cache.find(unit(1))
    assert here == []  # what a worker could not compile is not tried twice


def test_unwritable_cache_is_compiled_for_this_process_by_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(tmp_path / "file/cache"))
    with pytest.warns(RuntimeWarning, match="can't be written") as warned:
        assert _build.compile_kernels([unit(0), unit(1)]) == 2
    assert len(warned) == 1
    assert here == []
    assert _cache.load_or_compile(unit(0)).exists()
    assert here == []


def test_worker_that_never_starts_is_done_without(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker, "_PROGRAM", "raise SystemExit('nothing works here')")
    assert _build.compile_kernels([unit(0), unit(1)]) == 2
    assert here == ["fill0", "fill1"]


def test_program_that_can_not_be_run_is_done_without(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "python", lambda: "/no/such/python")
    assert _build.compile_kernels([unit(0), unit(1)]) == 2
    assert here == ["fill0", "fill1"]


def ready_then(statement: str) -> str:
    """A worker that says it is ready, takes one unit, and then does this."""
    return (
        f"print({_worker._MARK!r} + '{{\"ready\": true}}', flush=True); input(); import os, sys; {statement}"
    )


def test_unit_that_kills_its_worker_is_not_tried_in_this_process(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _worker, "_PROGRAM", ready_then("print('last words', file=sys.stderr); os.kill(os.getpid(), 9)")
    )
    with pytest.raises(CompileError, match="last words") as caught:
        _build.compile_kernels([unit(number) for number in range(3)])
    assert str(caught.value).count("ended early: exit status -9") == 2  # one unit a worker
    assert len(here) == 1  # nobody has tried the third


def test_worker_with_another_compiler_does_not_count(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = json.dumps({"path": "/somewhere/else"})
    program = ready_then(f"print({_worker._MARK!r} + {done!r}, flush=True); input()")
    monkeypatch.setattr(_worker, "_PROGRAM", program)
    assert _build.compile_kernels([unit(0), unit(1)]) == 2
    assert sorted(here) == ["fill0", "fill1"]


def test_prints_of_others_do_not_disturb_the_pipe(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker, "_PROGRAM", f"print('hello'); print('{{}}'); {_worker._PROGRAM}")
    assert _build.compile_kernels([unit(0), unit(1)]) == 2
    assert here == []


def test_worker_does_not_compile_at_its_own_import(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(_worker, "_PROGRAM", ready_then("sys.exit(os.environ['CUPY_W4A16_COMPILE'])"))
    worker = _worker.Worker(sys.executable, cache)
    try:
        with pytest.raises(CompileError, match="lazy"):
            worker.compile("fill", "")
    finally:
        worker.close()


def test_workers_are_gone_when_the_compile_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[_worker.Worker] = []
    start = _worker.Worker.__init__

    def remember(self: _worker.Worker, program: str, cache: Path) -> None:
        start(self, program, cache)
        started.append(self)

    def interrupt(*_: object) -> Iterator[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(_worker.Worker, "__init__", remember)
    monkeypatch.setattr(_worker, "_PROGRAM", ready_then("import time; time.sleep(600)"))
    monkeypatch.setattr("concurrent.futures.as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _build.compile_kernels([unit(0), unit(1)])
    assert len(started) == 2
    assert all(worker._process.poll() is not None for worker in started)


@pytest.mark.parametrize("program", [None, "", "/usr/bin/uwsgi", "/opt/app/blender"])
def test_program_that_embeds_python_is_not_started_as_a_worker(
    program: str | None, here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert _worker.python() is None
    assert _build.compile_kernels([unit(0), unit(1)]) == 2
    assert here == ["fill0", "fill1"]


def test_frozen_program_is_not_started_as_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert _worker.python() is None


def test_no_unit_is_no_work() -> None:
    assert _build.compile_kernels([]) == 0
