"""Compile many units at once: for the import of the package, and for `compile_kernels()`."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from . import _cache, _env, _nvml
from ._errors import CompileError
from ._key import Unit

if TYPE_CHECKING:
    from ._worker import Worker

WORKERS = 2  # processes: NVRTC locks its front end, two threads compile only 1.1 times as fast as one
QUIET_S = 1.0  # what takes less is not worth a line

_log = logging.getLogger("cupy_w4a16")


def compile_kernels(
    units: Iterable[Unit] | None = None, *, progress: bool | None = None, workers: int | None = None
) -> int:
    """Compile the default kernels that the cache lacks and return how many translation units that were.

    No GPU is needed, so a container image can be built with its cache filled. With `progress` None a bar on a
    terminal, or elsewhere one line on stderr, appears after a second; True shows it at once, False never.
    `workers` processes share the work (None: two), no more than there are CPUs. `units` is for our own tools;
    None means the default set, four kernels in two units. Other kernels compile at their first use.
    Raises `CompileError` when a unit does not compile, after the others have been compiled.

    >>> import cupy_w4a16
    >>> cupy_w4a16.compile_kernels(units=[])
    0
    """
    missing = _missing(units)
    failures: list[CompileError] = []
    with _progress(len(missing), progress) as advance:
        for failure in _compile_all(missing, workers or WORKERS):
            advance()
            if failure is not None:
                failures.append(failure)
    if failures:
        message = "\n\n".join(map(str, failures))
        log = "\n".join(failure.log for failure in failures)
        raise CompileError(message, log, failures[0].source_path)
    return len(missing)


def compile_at_import() -> None:
    """Compile the default kernels where a Hopper GPU may use them; never raises, never initialises CUDA."""
    try:
        if sentence := _env.two_cupys():
            warnings.warn(sentence, RuntimeWarning, stacklevel=3)
        if _env.compile_mode() == "lazy" or _is_our_command() or _nvml.library() is None:
            return
        # The cache is looked at before NVML is initialised, which takes longer where a machine has many GPUs.
        missing = _missing(None)
        if missing and _nvml.hopper_visible():
            compile_kernels(missing)
    except Exception as error:  # an import that fails for a kernel nobody has called yet helps nobody
        message = f"cupy_w4a16 has not compiled its kernels, and will try at their first use: {error}"
        _log.warning(message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _is_our_command() -> bool:
    """True in `python -m cupy_w4a16 ...`, where each command compiles what it needs."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1 :] if "-m" in words else []
    return module[:1] == [__package__] and sys.argv[:1] == ["-m"]


def _missing(units: Iterable[Unit] | None) -> list[Unit]:
    if units is None:
        from . import _kernels

        units = _kernels.default_units()
    return [unit for unit in units if _cache.find(unit) is None]


def _compile_all(units: Sequence[Unit], workers: int) -> Iterator[CompileError | None]:
    """Compile every unit, in worker processes where it pays; one outcome a unit, as they finish."""
    left: list[Unit] = list(units)
    for unit, failure in _compile_in_workers(units, workers):
        # A worker may have loaded another NVRTC than this process, and then stored under another key.
        if failure is not None or _cache.find(unit) is not None:
            left.remove(unit)
            yield failure
    for unit in left:
        try:
            _cache.load_or_compile(unit)
            yield None
        except CompileError as error:
            yield error


def _compile_in_workers(units: Sequence[Unit], wanted: int) -> Iterator[tuple[Unit, CompileError | None]]:
    from ._worker import Worker, python

    count = min(wanted, len(units), len(os.sched_getaffinity(0)))
    program = python()
    if count < 2 or program is None:
        return
    from concurrent.futures import ThreadPoolExecutor, as_completed

    cache = _cache.writable_folder()
    workers: list[Worker] = []
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(count)
    try:
        for _ in range(count):
            workers.append(Worker(program, cache))
            idle.put(workers[-1])
        jobs = {pool.submit(_delegate, idle, unit): unit for unit in units}
        for job in as_completed(jobs):
            compiled, failure = job.result()
            if compiled or failure is not None:
                yield jobs[job], failure
    except OSError as error:
        _log.info("no worker process could be started (%s); compiling in this one", error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()


def _delegate(idle: queue.SimpleQueue[Worker], unit: Unit) -> tuple[bool, CompileError | None]:
    # Nothing may be imported here: the main thread holds the package's import lock and waits for us.
    worker = idle.get()
    try:
        return worker.compile(unit.name, unit.source), None
    except CompileError as error:
        return False, error
    finally:
        idle.put(worker)


@contextlib.contextmanager
def _progress(total: int, wanted: bool | None) -> Iterator[Callable[[], object]]:
    """Show that a compile goes on; yields what is to be called after each unit."""
    delay = 0.0 if wanted else QUIET_S
    if wanted is False or total == 0 or sys.stderr is None:
        yield lambda: None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc="cupy_w4a16: compiling kernels", delay=delay, file=sys.stderr) as bar:
            yield bar.update
    else:
        folder = _cache.writable_folder()
        line = f"cupy_w4a16: compiling {total} translation units, once; they are kept in {folder}"
        timer = threading.Timer(delay, print, (line,), {"file": sys.stderr, "flush": True})
        timer.daemon = True
        timer.start()
        try:
            yield lambda: None
        finally:
            timer.cancel()
