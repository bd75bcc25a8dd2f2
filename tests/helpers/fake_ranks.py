"""Ranks as threads of one process, whose communicator is memory: NumPy, or all on one GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cupy
import numpy as np

WAIT_S = 60.0


class FakeCommunicator:
    """What the layers ask of a `Communicator`; it refuses what NCCL could not send."""

    def __init__(
        self, rank: int, size: int, device: int | None, meeting: threading.Barrier, at: list
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._meeting, self._at = meeting, at

    def all_sum(self, x: Any) -> Any:
        assert x.dtype == np.float32, "sums are float32"
        parts = self._exchange(x)
        x[...] = sum(parts[1:], start=parts[0])  # the order of ranks, on each of them
        return x

    def all_gather(self, x: Any) -> Any:
        return self._library.stack(self._exchange(x))

    @property
    def _library(self) -> Any:
        return np if self.device is None else cupy

    def _exchange(self, x: Any) -> list[Any]:
        """Copies of every rank's `x`."""
        assert isinstance(x, self._library.ndarray)
        assert x.flags.c_contiguous
        self._at[self.rank] = x.copy()
        if self.device is not None:
            cupy.cuda.get_current_stream().synchronize()
        self._meeting.wait(WAIT_S)
        parts = list(self._at)
        self._meeting.wait(WAIT_S)
        assert len({(part.shape, part.dtype) for part in parts}) == 1, "ranks send different arrays"
        return parts


def on_ranks(size: int, work: Callable[[Any], Any], device: int | None = None) -> list[Any]:
    """`work(communicator)` of every rank, at the same time; where one fails the others end, too."""
    meeting, at = threading.Barrier(size), [None] * size

    def run(rank: int) -> Any:
        try:
            if device is not None:
                cupy.cuda.Device(device).use()
            return work(FakeCommunicator(rank, size, device, meeting, at))
        except threading.BrokenBarrierError:
            return None  # another rank has the error
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in range(size)]]
