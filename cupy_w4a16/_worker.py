"""A process that compiles units for another: the two ends of its pipe.

The parent writes one JSON line a unit, the worker answers with one JSON line each. No multiprocessing: a
worker is a plain subprocess, so that nothing of the user's program is imported or run a second time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

from . import _env
from ._errors import CompileError
from ._key import Unit

_MARK = "cupy_w4a16-worker "  # lines without it are somebody else's prints
# The parent's sys.path stands in for its way of finding this package and CuPy, whatever that was.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from cupy_w4a16._worker import main; main()"
)


def python() -> str | None:
    """The Python to start workers with; None in a program that embeds or freezes its interpreter."""
    program = sys.executable or ""
    frozen = getattr(sys, "frozen", False)
    return program if Path(program).name.startswith("python") and not frozen else None


class Worker:
    """The parent's end: `compile` hands over one unit and waits for the answer."""

    def __init__(self, program: str, cache: Path) -> None:
        environment = os.environ | {_env.COMPILE: "lazy", _env.CACHE_DIR: str(cache)}
        self._started: bool | None = None  # not known before its first answer
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._process = subprocess.Popen(
            [program, "-c", _PROGRAM, json.dumps([os.path.abspath(entry) for entry in sys.path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            text=True,
        )

    def compile(self, name: str, source: str) -> bool:
        """True when the cache has the unit now, False when there is no worker to ask; else CompileError."""
        if not self._ready():
            return False
        try:
            self._send({"name": name, "source": source})
            answer = self._answer()
        except OSError:
            answer = None
        if answer is None:  # killed, or crashed on this unit: not one to try inside the user's own process
            self._started = False
            raise CompileError(f"the process that compiled {name} ended early: {self._last_words()}")
        if "error" in answer:
            raise CompileError(answer["error"], answer["log"], answer["source_path"])
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def _ready(self) -> bool:
        if self._started is None:
            self._started = self._answer() is not None
        return self._started

    def _send(self, message: dict[str, str]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return dict(json.loads(line.removeprefix(_MARK)))
        return None

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return f"exit status {self._process.returncode}. {text[-2000:]}"


def main() -> None:
    """The worker's end: answer until stdin ends, as it does when the parent is gone."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # no library may print between the replies
    from . import _cache

    _reply(replies, {"ready": True})
    for line in sys.stdin:
        try:
            path = _cache.load_or_compile(Unit(**json.loads(line)))
            _reply(replies, {"path": str(path)})
        except CompileError as error:
            _reply(replies, {"error": str(error), "log": error.log, "source_path": error.source_path})


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(f"{_MARK}{json.dumps(message)}\n")
