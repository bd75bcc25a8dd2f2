"""The floor under any kernel: the time to read the weights cold, or to do the arithmetic if longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from . import device, timing
from .shapes import calls_for, estimated_us
from .weights import Weights

READ_WORK_US, READ_ROUNDS = 2500.0, 5


@dataclass(frozen=True)
class Floor:
    """`read_us`: a cold read of codes, scales and zeros; `tflops`: the best rate that cuBLAS reached."""

    read_us: float
    tflops: float

    def us(self, m: int, n: int, k: int) -> float:
        """The larger of the read and 2 m n k at the best rate.

        >>> round(Floor(4.3, 731).us(128, 4096, 4096), 2), Floor(4.3, 731).us(1, 4096, 4096)
        (5.88, 4.3)
        """
        return max(self.read_us, 2.0 * m * n * k / (self.tflops * 1e6))


def read_us(weights: Weights, stream: Any, seed: int = 0, rest: float = 0.0) -> float:
    """Time to read a weight set, launch included: the fastest of `device.READERS`, in the same rotation."""
    problem = weights.problem
    sink = cupy.empty(1, np.uint32)
    count = calls_for(estimated_us(1, problem.n, problem.k), len(weights.sets), READ_WORK_US)
    replays = []
    for reader in device.READERS:
        calls = [_read(reader, packed.b_packed, packed.side, sink) for packed in weights.sets]
        with stream:
            calls[0]()
        replays.append(timing.capture(calls, count, stream))
    return min(found.us for found in timing.interleaved(replays, READ_ROUNDS, stream, seed, rest))


def _read(reader: device.Reader, first: Any, second: Any, sink: Any) -> timing.Call:
    return lambda: reader(first, second, sink)
