"""When the kernels run: on CuPy's current stream, from many threads, in graphs, and in forked children."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cupy
import numpy as np
import pytest
from helpers.cases import Case
from helpers.gpu import Placed, poisoned

from cupy_w4a16 import gemm
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


FORK = """
import os
import cupy_w4a16
child = os.fork()
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
import cupy
from cupy_w4a16.testing import assert_gemm_close, make_problem
problem = make_problem(5, 72, 104)
arrays = [cupy.asarray(x) for x in problem[:3]]
assert_gemm_close(cupy.asnumpy(cupy_w4a16.gemm(*arrays)), *problem)
print("the child is done", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("compile_mode", ["import", "lazy"])
def test_a_child_forked_after_import_can_use_the_gpu(compile_mode: str) -> None:
    environment = os.environ | {"CUPY_W4A16_COMPILE": compile_mode}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    ran = subprocess.run(
        [sys.executable, "-c", FORK],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "the child is done" in ran.stdout
