"""GPU time of calls: CUDA graphs of many, replayed in random order, with nothing of the host between them."""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cupy

from . import HangError, device, machine

Call = Callable[[], Any]

BURST_MS = 100.0  # long enough for the power cap to act
BURST_SKIPPED = 0.3  # of a burst, while clocks settle
HANG_S = 30.0  # many times what anything here takes
LONGEST_REST_MS = 1000.0  # cools any GPU, and is no hang


def wait(stream: Any, what: str) -> None:
    """Until the stream has done everything; `HangError` naming `what` where that takes `HANG_S`."""
    event = cupy.cuda.Event(disable_timing=True)
    event.record(stream)
    _await(event, what)


def _await(event: Any, what: str) -> None:
    started = time.monotonic()
    while not event.done:
        if time.monotonic() - started > HANG_S:
            raise HangError(f"{what} has not ended in {HANG_S:.0f} s: a kernel hangs")
        time.sleep(1e-4)


@dataclass(frozen=True)
class Timing:
    """Median, least and largest time of a call in µs over the rounds, and the clock meanwhile."""

    us: float
    low_us: float
    high_us: float
    calls: int
    rounds: int
    sm_mhz: int | None
    power_w: float | None

    @classmethod
    def of(cls, times_us: Sequence[float], calls: int, samples: Sequence[machine.Sample]) -> Timing:
        return cls(
            statistics.median(times_us),
            min(times_us),
            max(times_us),
            calls,
            len(times_us),
            round(statistics.median(s.sm_mhz for s in samples)) if samples else None,
            statistics.median(s.power_w for s in samples) if samples else None,
        )


@dataclass(frozen=True)
class Replay:
    """A captured graph of `calls` calls."""

    graph: Any
    calls: int


def capture(calls: Sequence[Call], count: int, stream: Any) -> Replay:
    """A graph of `count` calls, `calls` in turn; they have run once before, so nothing compiles or loads."""
    with stream:
        stream.begin_capture()
        try:
            for i in range(count):
                calls[i % len(calls)]()
        except BaseException:
            with contextlib.suppress(Exception):  # the capture is invalid now; what went wrong is the news
                stream.end_capture()
            raise
        return Replay(stream.end_capture(), count)


@dataclass(frozen=True)
class Queued:
    """A replay that the stream was given: its place among the replays, and the events around it."""

    index: int
    start: Any
    end: Any

    @property
    def ms(self) -> float:
        return float(cupy.cuda.get_elapsed_time(self.start, self.end))


def interleaved(
    replays: Sequence[Replay], rounds: int, stream: Any, seed: int, rest: float = 0.0
) -> list[Timing]:
    """Each replay once a round, in random order; a first round warms up and is not counted.

    Before each counted replay the GPU rests, `rest` times as long as the replay took in the first round.
    These rounds are queued at once, so that nothing of the host comes between.
    """
    order = random.Random(seed)
    what = f"a round of {len(replays)} graphs"
    first_ms = [0.0] * len(replays)
    for queued in _queue_round(replays, first_ms, stream, order):
        _await(queued.end, what)
        first_ms[queued.index] = queued.ms
    rests_ms = [min(rest * ms, LONGEST_REST_MS) for ms in first_ms]
    counted = [_queue_round(replays, rests_ms, stream, order) for _ in range(rounds)]
    # One after another, so that however many there are, none takes HANG_S.
    for queued in itertools.chain(*counted[:-1]):
        _await(queued.end, what)
    samples: list[list[machine.Sample]] = [[] for _ in replays]
    for queued in counted[-1]:
        _await(queued.start, what)
        samples[queued.index] = _sample_amid(queued, first_ms[queued.index])
    wait(stream, what)
    times: list[list[float]] = [[] for _ in replays]
    for queued in itertools.chain(*counted):
        times[queued.index].append(1e3 * queued.ms / replays[queued.index].calls)
    return [Timing.of(t, replay.calls, s) for t, replay, s in zip(times, replays, samples, strict=True)]


def _queue_round(
    replays: Sequence[Replay], rests_ms: Sequence[float], stream: Any, order: random.Random
) -> list[Queued]:
    """Every replay once, each after its rest."""
    round_: list[Queued] = []
    for i in order.sample(range(len(replays)), len(replays)):
        queued = Queued(i, cupy.cuda.Event(), cupy.cuda.Event())
        if rests_ms[i]:
            with stream:
                device.rest(rests_ms[i])
        queued.start.record(stream)
        replays[i].graph.launch(stream)
        queued.end.record(stream)
        round_.append(queued)
    return round_


def _sample_amid(queued: Queued, expected_ms: float) -> list[machine.Sample]:
    """Clock and power halfway through a replay that has started; none where that came too late."""
    time.sleep(0.5e-3 * expected_ms)
    now = machine.sample()
    return [] if now is None or queued.end.done else [now]


def bursts(replays: Sequence[Replay], rounds: int, stream: Any, seed: int) -> list[Timing]:
    """Each replay for `BURST_MS` a round, in random order, timed over what follows `BURST_SKIPPED` of it.

    What a kernel reaches when the card is hot and power sets its clock.
    """
    order = random.Random(seed)
    first = interleaved(replays, 1, stream, seed)
    times: list[list[float]] = [[] for _ in replays]
    samples: list[list[machine.Sample]] = [[] for _ in replays]
    for _ in range(rounds):
        for i in order.sample(range(len(replays)), len(replays)):
            repeats = max(4, round(1e3 * BURST_MS / (first[i].us * replays[i].calls)))
            skipped = round(BURST_SKIPPED * repeats)
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            for j in range(repeats):
                if j == skipped:
                    start.record(stream)
                replays[i].graph.launch(stream)
            end.record(stream)
            start.synchronize()
            if now := machine.sample():
                samples[i].append(now)
            end.synchronize()
            calls = (repeats - skipped) * replays[i].calls
            times[i].append(1e3 * cupy.cuda.get_elapsed_time(start, end) / calls)
    return [Timing.of(t, replay.calls, s) for t, replay, s in zip(times, replays, samples, strict=True)]
