"""When the kernels run: on CuPy's current stream, from many threads and in graphs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cupy
import numpy as np
import pytest
from helpers.cases import Case
from helpers.gpu import Placed, poisoned

from cupy_w4a16 import GemmConfig, W4A16Error, gemm, workspace_bytes
from cupy_w4a16._config import NAMED_CONFIGS

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("compiled")]

NAMED = tuple(NAMED_CONFIGS.values())
CASES = (
    Case(100, 1000, 1000, config=NAMED[0]),
    Case(64, 1032, 1160, 64, config=NAMED[1]),
    Case(257, 520, 2048, config=NAMED[0], seed=1),
    Case(33, 2056, 616, 64, config=NAMED[1], seed=1),
)


class OnGpu:
    """A case with its arrays on the GPU, an `out`, and what must stand there."""

    def __init__(self, case: Case, is_checked: bool = True) -> None:
        self.case, self.host = case, case.arguments()
        self.a, self.b_packed, self.scales = (cupy.asarray(x) for x in self.host[:3])
        self.out = Placed(poisoned(case))
        self.run()
        self.expected = self.out.download()
        if is_checked:
            case.check(self.expected, self.host)
        self.spoil()

    def run(self) -> None:
        gemm(self.a, self.b_packed, self.scales, out=self.out.array, config=self.case.config)

    def spoil(self) -> None:
        self.out.array.set(poisoned(self.case))

    def check(self) -> None:
        np.testing.assert_array_equal(self.out.download(), self.expected)


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_work_queues_up_on_the_current_stream(case: Case) -> None:
    ready = OnGpu(case)
    busy = OnGpu(case.with_(m=2048, n=4096, k=2048), is_checked=False)
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(ready.a.nbytes), np.float16, ready.a.size)
    pinned = pinned.reshape(ready.a.shape)
    pinned[...] = ready.host.a
    ready.a.set(np.zeros_like(ready.host.a))
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(100):  # some milliseconds; a kernel on another stream would find zeros in a
            busy.run()
        ready.a.set(pinned, stream=stream)
        ready.run()
    stream.synchronize()
    ready.check()


@pytest.mark.parametrize("cases", [CASES], ids=["all"])
def test_streams_at_once_do_not_meet(cases: tuple[Case, ...]) -> None:
    ready = [OnGpu(case) for case in cases]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in ready]
    cupy.cuda.Device().synchronize()
    for _ in range(50):
        for one, stream in zip(ready, streams, strict=True):
            with stream:
                one.run()
    cupy.cuda.Device().synchronize()
    for one in ready:
        one.check()


@pytest.mark.parametrize("cases", [CASES], ids=["all"])
def test_threads_at_once_do_not_meet(cases: tuple[Case, ...]) -> None:
    ready = [OnGpu(case) for case in cases]
    cupy.cuda.Device().synchronize()

    def work(one: OnGpu) -> None:
        with cupy.cuda.Stream(non_blocking=True) as stream:
            for _ in range(200):
                one.run()
            stream.synchronize()

    with ThreadPoolExecutor(len(ready)) as pool:
        list(pool.map(work, ready))
    for one in ready:
        one.check()


@pytest.mark.parametrize("cases", [CASES], ids=["all"])
def test_captured_calls_replay_any_number_of_times(cases: tuple[Case, ...]) -> None:
    ready = [OnGpu(case) for case in cases]  # each has run once: a capture can't load a kernel
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        for one in ready:
            one.run()
        graph = stream.end_capture()
    for _ in range(3):
        for one in ready:
            one.spoil()
        cupy.cuda.Device().synchronize()
        graph.launch(stream)
        stream.synchronize()
        for one in ready:
            one.check()
    # The graph reads what stands in the arrays when it runs.
    first = ready[0]
    swapped = first.host._replace(a=np.ascontiguousarray(first.host.a[::-1]))
    first.a.set(swapped.a)
    cupy.cuda.Device().synchronize()
    graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(first.out.download(), first.expected[::-1])


def test_unloaded_kernel_in_a_capture_is_refused_with_the_way_out() -> None:
    case = Case(5, 72, 104, 64, activation="silu", config=GemmConfig(stages=4))  # no other test loads it
    a, b_packed, scales = (cupy.asarray(x) for x in case.arguments()[:3])
    out = cupy.empty((5, 72), np.float16)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(W4A16Error, match="warm up before the capture"):
                gemm(a, b_packed, scales, activation="silu", config=case.config, out=out)
        finally:
            stream.end_capture()


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_captured_copy_of_a_lives_in_the_workspace(case: Case) -> None:
    ready = OnGpu(case)
    ready.a = cupy.asarray(np.ascontiguousarray(ready.host.a.T)).T
    workspace = cupy.empty(workspace_bytes(case.problem), np.uint8)
    call = partial(gemm, ready.a, ready.b_packed, ready.scales, config=case.config, out=ready.out.array)
    call(workspace=workspace)
    ready.check()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(W4A16Error, match="workspace"):
                call()
            call(workspace=workspace)
        finally:
            graph = stream.end_capture()
    for _ in range(2):
        ready.spoil()
        cupy.cuda.Device().synchronize()
        graph.launch(stream)
        stream.synchronize()
        ready.check()


REMEMBERED = Case(40, 136, 512, config=NAMED[0])


@pytest.mark.parametrize(
    "cases",
    [
        (
            REMEMBERED,
            REMEMBERED.with_(alpha=2.0),
            REMEMBERED.with_(alpha=0.0, bias=True),
            REMEMBERED.with_(alpha=-0.0),
            REMEMBERED.with_(bias=True, activation="relu"),
            REMEMBERED.with_(dtype="bfloat16", seed=1),
            REMEMBERED.with_(float32_out=True),
            REMEMBERED.with_(config=NAMED[1]),
            REMEMBERED.with_(m=20, k=1024, group_size=256, seed=2),
        )
    ],
    ids=["all"],
)
def test_calls_at_the_same_addresses_are_not_taken_for_each_other(cases: tuple[Case, ...]) -> None:
    memory = [cupy.empty(1 << 20, np.uint8) for _ in range(5)]
    for case in 3 * cases:
        arguments = case.arguments()
        a, b_packed, scales, bias, out = (
            None if x is None else cupy.ndarray(x.shape, x.dtype, at.data)
            for x, at in zip((*arguments[:3], arguments.bias, poisoned(case)), memory, strict=True)
        )
        for x, host in zip((a, b_packed, scales, bias), (*arguments[:3], arguments.bias), strict=True):
            if host is not None:
                x.set(host)
        gemm(
            a, b_packed, scales, None, case.group_size, bias=bias, out=out, config=case.config, **case.options
        )
        case.check(cupy.asnumpy(out), arguments)
