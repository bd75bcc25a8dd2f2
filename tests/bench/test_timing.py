"""Timing, with clocks and graphs that are not there; on a GPU, that a rest is one."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import cupy
import pytest
from cuda import pathfinder

from cupy_w4a16._config import GemmProblem
from cupy_w4a16.bench import BenchError, HangError, chain, cublas, device, machine, sweep, timing
from cupy_w4a16.bench.shapes import MODELS


class FakeGpu:
    """A GPU with one stream, and its host: clocks in ms that move by what is queued, and by waiting."""

    def __init__(self) -> None:
        self.host = self.queued_until = 0.0
        self.working: list[tuple[float, float]] = []
        self.log: list[str] = []

    def take(self, what: str, ms: float) -> tuple[float, float]:
        """The next thing in the stream: from when to when it runs."""
        self.log.append(what)
        start = max(self.host, self.queued_until)
        self.queued_until = start + ms
        return start, self.queued_until

    def rest(self, ms: float) -> None:
        self.take(f"rest {ms:g}", ms)

    def sleep(self, seconds: float) -> None:
        self.log.append("host waits")
        self.host += 1e3 * seconds

    def sample(self) -> machine.Sample:
        """A lower clock while it works."""
        self.log.append("sample")
        works = any(start <= self.host < end for start, end in self.working)
        return machine.Sample(1500 if works else 1980, 700.0)

    def graph(self, name: str, ms: float, calls: int = 10) -> timing.Replay:
        return timing.Replay(FakeGraph(self, name, ms), calls)


class FakeGraph:
    def __init__(self, gpu: FakeGpu, name: str, ms: float) -> None:
        self.gpu, self.name, self.ms = gpu, name, ms

    def launch(self, stream: Any) -> None:
        self.gpu.working.append(self.gpu.take(self.name, self.ms))


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.at = gpu, math.nan

    def record(self, stream: Any) -> None:
        self.at = max(self.gpu.host, self.gpu.queued_until)

    @property
    def done(self) -> bool:
        return self.gpu.host >= self.at

    def synchronize(self) -> None:
        self.gpu.host = max(self.gpu.host, self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    monkeypatch.setattr(cupy.cuda, "Event", lambda **_: FakeEvent(gpu))
    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", lambda start, end: end.at - start.at)
    monkeypatch.setattr(machine, "sample", gpu.sample)
    monkeypatch.setattr(device, "rest", gpu.rest)
    monkeypatch.setattr(timing.time, "sleep", gpu.sleep)
    monkeypatch.setattr(timing.time, "monotonic", lambda: 1e-3 * gpu.host)
    return gpu


def test_every_round_runs_every_graph_once_in_changing_order(gpu: FakeGpu) -> None:
    replays = [gpu.graph(name, ms) for name, ms in zip("abc", (1, 2, 4), strict=True)]
    found = timing.interleaved(replays, 20, None, seed=1)
    ran = [what for what in gpu.log if what in "abc"]
    rounds = ["".join(ran[i : i + 3]) for i in range(0, len(ran), 3)]
    assert len(rounds) == 21  # one to warm up
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    assert len(set(rounds)) == 6  # 20 draws miss one of six orders with a chance of 6 (5/6)^21 = 13 %: seeded
    assert [t.us for t in found] == pytest.approx([100, 200, 400])
    assert {(t.rounds, t.calls) for t in found} == {(20, 10)}


def test_rests_are_multiples_of_each_time_and_outside_it(gpu: FakeGpu) -> None:
    found = timing.interleaved([gpu.graph("a", 2), gpu.graph("b", 5)], 4, FakeStream(), seed=1, rest=3)
    assert [t.us for t in found] == pytest.approx([200, 500])
    work = [what for what in gpu.log if what not in ("host waits", "sample")]
    assert sorted(work[:2]) == ["a", "b"]  # the warm-up
    before = set(zip(work[2::2], work[3::2], strict=True))
    assert before == {("rest 6", "a"), ("rest 15", "b")}
    assert len(work) == 2 + 4 * 4


@pytest.mark.parametrize("rest", [0, 3])
def test_counted_rounds_are_queued_before_the_host_waits(rest: float, gpu: FakeGpu) -> None:
    timing.interleaved([gpu.graph("a", 2), gpu.graph("b", 5)], 4, FakeStream(), seed=1, rest=rest)
    launches = [i for i, what in enumerate(gpu.log) if what in "ab"]
    assert not {"host waits", "sample"} & set(gpu.log[launches[2] : launches[-1]])


@pytest.mark.parametrize("rest", [0, 3])
def test_clock_is_that_of_the_work_not_of_the_rests(rest: float, gpu: FakeGpu) -> None:
    found = timing.interleaved([gpu.graph("a", 2), gpu.graph("b", 5)], 4, FakeStream(), seed=1, rest=rest)
    assert [t.sm_mhz for t in found] == [1500, 1500]


def test_clock_that_came_too_late_is_left_out(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> machine.Sample:
        gpu.host += 2
        return machine.Sample(1500, 700.0)

    monkeypatch.setattr(machine, "sample", slow)
    found = timing.interleaved([gpu.graph("a", 2), gpu.graph("b", 5)], 1, FakeStream(), seed=1, rest=3)
    assert [t.sm_mhz for t in found] == [None, 1500]


def test_long_work_with_rests_is_no_hang(gpu: FakeGpu) -> None:
    replays = [gpu.graph(f"graph {i}", 50) for i in range(32)]
    timing.interleaved(replays, 7, FakeStream(), seed=1, rest=3)
    assert gpu.host > 1e3 * timing.HANG_S
    timing.interleaved([gpu.graph("slow", 100)], 1, FakeStream(), seed=1, rest=1e9)
    assert f"rest {timing.LONGEST_REST_MS:g}" in gpu.log


def test_bursts_last_and_skip_their_start(gpu: FakeGpu) -> None:
    (found,) = timing.bursts([gpu.graph("a", 5.0, calls=100)], 3, None, seed=0)
    assert (found.us, found.sm_mhz) == (pytest.approx(50.0), 1500)
    assert gpu.log.count("a") == 2 + 3 * timing.BURST_MS / 5.0


class FakeStream:
    def __init__(self) -> None:
        self.log: list[str] = []

    def __enter__(self) -> None:
        self.log.append("enter")

    def __exit__(self, *_: object) -> None:
        self.log.append("exit")

    def begin_capture(self) -> None:
        self.log.append("begin")

    def end_capture(self) -> str:
        self.log.append("end")
        return "graph"


def test_capture_takes_the_weight_sets_in_turn() -> None:
    seen: list[int] = []
    replay = timing.capture([lambda i=i: seen.append(i) for i in range(3)], 7, FakeStream())  # type: ignore[misc]
    assert seen == [0, 1, 2, 0, 1, 2, 0]
    assert replay == timing.Replay("graph", 7)


def test_failed_capture_is_ended() -> None:
    stream = FakeStream()
    with pytest.raises(ZeroDivisionError):
        timing.capture([lambda: 1 / 0], 1, stream)
    assert stream.log == ["enter", "begin", "end", "exit"]


def test_hanging_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        done = False

        def __init__(self, **_: Any) -> None: ...

        def record(self, stream: Any) -> None: ...

    monkeypatch.setattr(cupy.cuda, "Event", Never)
    monkeypatch.setattr(timing, "HANG_S", 0.01)
    with pytest.raises(HangError, match="256x128 has not ended"):
        timing.wait(None, "256x128")


@pytest.mark.parametrize("failure", [HangError, BenchError, KeyboardInterrupt, SystemExit])
def test_what_went_wrong_is_not_waited_for(
    failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stream that waits for ever, as one with a hanging kernel does; the process ends without it.
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(cupy.cuda, "Stream", lambda **_: FakeStream())  # which has no synchronize
    monkeypatch.setattr(cublas.Blas, "__init__", lambda blas, stream: vars(blas).update(_stream=stream))
    monkeypatch.setattr(machine, "watched", contextlib.nullcontext)
    monkeypatch.setattr(sweep, "_cublas_tflops", fail)
    monkeypatch.setattr(chain, "_layers", fail)
    with pytest.raises(failure):
        sweep.sweep([GemmProblem(1, 64, 64)], [])
    with pytest.raises(failure):
        chain.measure_chain(MODELS[0], 1, dtype="float16", group_size=128, rounds=1, rest=0)
    with pytest.raises(AttributeError, match="synchronize"), cublas.Blas(FakeStream()):
        pass


def test_missing_cublas_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise pathfinder.DynamicLibNotFoundError(name)

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    with pytest.raises(BenchError, match=r"bench and tune need it.*\[bench\].*nvidia-cublas-cu12"):
        cublas._library.__wrapped__()


@pytest.mark.gpu
def test_rest_lasts_as_long_as_asked() -> None:
    with cupy.cuda.Stream(non_blocking=True) as stream:
        device.rest(1)  # compiled and loaded
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(stream)
        device.rest(20)
        end.record(stream)
        timing.wait(stream, "a rest")
    # Two clocks of one GPU, and what the host may put between; a mistaken unit would be 1000 times off.
    assert 19 < cupy.cuda.get_elapsed_time(start, end) < 2000
