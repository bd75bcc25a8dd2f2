"""Compiling many units: worker processes and their mishaps, the import-time build, and what it shows."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cupy_w4a16 import _build, _cache, _compiler, _kernels, _nvml, _worker
from cupy_w4a16._errors import CompileError


@dataclasses.dataclass(frozen=True)
class Unit:
    name: str
    source: str


def unit(number: int) -> Unit:
    return Unit(
        f"fill{number}", f'extern "C" __global__ void fill{number}(float *x) {{ x[threadIdx.x] = {number}; }}'
    )


BROKEN = Unit("broken", "#error deliberate\n")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; the headers are the real ones, since workers look for theirs."""
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CUPY_W4A16_COMPILE", raising=False)
    monkeypatch.setattr(_cache, "_private_folders", [])
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    return tmp_path / "cache"


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


# --- worker processes ---


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


# --- at import ---


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a Hopper GPU and two small default kernels; the list says when NVML was asked."""
    asked: list[str] = []
    monkeypatch.setattr(_nvml, "library", lambda: object())
    monkeypatch.setattr(_nvml, "hopper_visible", lambda: asked.append("asked") or True)
    monkeypatch.setattr(_kernels, "default_units", lambda: [unit(0), unit(1)])
    return asked


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_compiles_the_default_kernels(here: list[str]) -> None:
    _build.compile_at_import()
    assert here == ["fill0", "fill1"]


@pytest.mark.usefixtures("no_workers")
def test_import_with_a_warm_cache_does_not_wait_for_nvml(here: list[str], on_hopper: list[str]) -> None:
    _build.compile_kernels()
    _build.compile_at_import()
    assert on_hopper == []
    assert len(here) == 2


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_compiles_nothing_without_a_hopper(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvml, "hopper_visible", lambda: False)
    _build.compile_at_import()
    monkeypatch.setattr(_nvml, "hopper_visible", lambda: True)
    monkeypatch.setattr(_nvml, "library", lambda: None)
    _build.compile_at_import()
    assert here == []


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_compiles_nothing_when_lazy(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_COMPILE", "lazy")
    _build.compile_at_import()
    assert here == []


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_for_our_command_line_leaves_compiling_to_the_command(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["-m", "info"])  # as it is while -m imports the package
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "cupy_w4a16", "info"])
    _build.compile_at_import()
    assert here == []
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "their_program", "-m", "cupy_w4a16"])
    _build.compile_at_import()
    assert here == ["fill0", "fill1"]


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_failing_compile_warns_once_and_lets_the_import_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernels, "default_units", lambda: [BROKEN, unit(0)])
    with pytest.warns(RuntimeWarning, match=r"(?s)first use.*deliberate") as warned:
        _build.compile_at_import()
    assert len(warned) == 1
    assert _cache.find(unit(0))
    with pytest.raises(CompileError, match="deliberate"):
        _cache.load_or_compile(BROKEN)


@pytest.mark.usefixtures("no_workers", "on_hopper")
@pytest.mark.parametrize("error", [OSError("no such folder"), RuntimeError("who knows")])
def test_import_never_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> object:
        raise error

    monkeypatch.setattr(_kernels, "default_units", fails)
    with pytest.warns(RuntimeWarning, match=str(error)):
        _build.compile_at_import()


@pytest.mark.usefixtures("on_hopper")
def test_unknown_compile_mode_warns_at_import(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_COMPILE", "eager")
    with pytest.warns(RuntimeWarning, match="'eager'"):
        _build.compile_at_import()
    assert here == []


@pytest.mark.usefixtures("here")
def test_two_cupys_warn_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupy_w4a16._env.installed", lambda name: "14.2.0")
    with pytest.warns(RuntimeWarning, match="both installed"):
        _build.compile_at_import()


FORK_AFTER_IMPORT = """
import os
import cupy_w4a16
child = os.fork()
if child == 0:
    import cupy
    os._exit(int(cupy.arange(5).sum()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.gpu
@pytest.mark.parametrize("state", ["cold", "warm"])
def test_forked_child_can_use_the_gpu_after_import(state: str, cache: Path) -> None:
    if state == "warm":
        _build.compile_kernels()
    command = [sys.executable, "-c", FORK_AFTER_IMPORT]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout == "10\n", ran.stderr
    assert len(_cache.entries()) == len(_kernels.default_units())


# --- what is shown ---


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


def test_no_unit_is_no_work() -> None:
    assert _build.compile_kernels([]) == 0
