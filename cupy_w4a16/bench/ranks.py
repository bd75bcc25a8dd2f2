"""One command started as several ranks of this machine; none outlives a limit, or who started it.

A rank left over would wait in NCCL for ever, its kernel taking half of the GPU from whoever comes next.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import IO

from .._errors import W4A16Error
from .._printing import failed
from . import BenchError

_LAST_CHARACTERS = 4000  # of a failed rank's output, in the message
_POLL_S = 0.05

# Becomes the rank, which Linux ends (PR_SET_PDEATHSIG is 1, SIGKILL 9) when this process does, were it killed
# and past cleaning up. A program, as `preexec_fn` is unsafe where there are threads.
_BOUND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def run_ranks(command: Sequence[str], size: int, limit_s: float) -> str:
    """What rank 0 printed, when `command` ran as `size` processes that know their RANK and WORLD_SIZE.

    Raises:
        BenchError: a rank failed, which ends the others, or they took longer than `limit_s`; the message has
            the end of what each printed.
    """
    program = [sys.executable, "-ISc", _BOUND, str(os.getpid()), *command]
    common = {"WORLD_SIZE": str(size), "CUPYX_DISTRIBUTED_PORT": str(_free_port())}
    with contextlib.ExitStack() as stack:
        files: list[IO[bytes]] = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(size)]
        ranks: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, ranks)
        for rank, file in enumerate(files):
            environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(
                subprocess.Popen(
                    program, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                    start_new_session=True,  # so that _end reaches what a rank starts, too
                )
            )  # fmt: skip
        fault = _fault(ranks, time.monotonic() + limit_s)
        if fault:
            _end(ranks)
            last_words = (_text(file)[-_LAST_CHARACTERS:] for file in files)
            printed = "\n".join(f"--- rank {i}\n{text}" for i, text in enumerate(last_words))
            raise BenchError(f"{' '.join(command)}: {fault}\n{printed}")
        return _text(files[0])


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """What fails in here ends the process, with status 2 and the reason in stderr.

    For a rank's work: the others wait in NCCL for a rank that failed, and so would its tidy exit.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (BenchError, W4A16Error)):
            failed(error)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)


def _fault(ranks: Sequence[subprocess.Popen[bytes]], deadline: float) -> str:
    """Wait for all; what went wrong, "" where nothing did."""
    while True:
        statuses = [rank.poll() for rank in ranks]
        for i, status in enumerate(statuses):
            if status:
                return f"rank {i} of {len(ranks)} ended with status {status}"
        if None not in statuses:
            return ""
        if time.monotonic() > deadline:
            running = [str(i) for i, status in enumerate(statuses) if status is None]
            return f"out of time, with rank {', '.join(running)} of {len(ranks)} still running"
        time.sleep(_POLL_S)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
