"""Processes and threads that start together compile once; no lock holds anyone up for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest
from helpers.units import Unit

from cupy_w4a16 import _cache, _key

COUNTING = """
import os, sys
import filelock
from cupy_w4a16 import _cache, _compiler, _key
real = _compiler.compile_source
def counting(source, name):
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    return real(source, name)
_compiler.compile_source = counting
print("ready", flush=True)
input()
print(_cache.load_or_compile(_key.Unit(*sys.argv[2:])))
"""


def environment() -> dict[str, str]:
    places = [str(Path(_cache.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places), "CUPY_W4A16_COMPILE": "lazy"}


def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNTING, str(tmp_path / "compiles"), Unit().name, Unit().source]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:  # all have imported everything: now they race
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    paths = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(paths) == 1
    assert len((tmp_path / "compiles").read_text().splitlines()) == 1


def test_threads_that_start_together_compile_once(compiles: list[str]) -> None:
    barrier = threading.Barrier(8)
    paths = []

    def load() -> None:
        barrier.wait()
        paths.append(_cache.load_or_compile(Unit()))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8
    assert len(set(paths)) == 1
    assert compiles == ["copy"]


HOLD = """
import sys, filelock
filelock.FileLock(sys.argv[1]).acquire()
print("held", flush=True)
input()
"""


def lock_path() -> Path:
    path = _cache.writable_folder() / _cache._LOCKS / f"copy-{_key.unit_key(Unit())}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_lock_of_a_dead_process_blocks_nobody(compiles: list[str], caplog: pytest.LogCaptureFixture) -> None:
    command = [sys.executable, "-c", HOLD, str(lock_path())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
    assert _cache.load_or_compile(Unit()).exists()
    assert caplog.text == ""  # it was taken, not waited for in vain


def test_lock_that_is_never_released_is_waited_for_in_bounds(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_cache, "LOCK_TIMEOUT_S", 0.05)
    with filelock.FileLock(lock_path()):
        assert _cache.load_or_compile(Unit()).exists()
    assert "has been locked" in caplog.text
    assert compiles == ["copy"]


def test_file_system_without_locks_compiles_all_the_same(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    assert _cache.load_or_compile(Unit()).exists()
