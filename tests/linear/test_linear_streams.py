"""A `Linear` in graphs, on streams and in threads of a GPU."""

from __future__ import annotations

import threading
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.linears import real

from cupy_w4a16 import GemmConfig, GemmProblem, W4A16Error, gemm, workspace_bytes


def shifted(a: Any) -> Any:
    """The same values on the GPU, at an address and a row stride that the copy engine does not take."""
    wide = np.zeros((a.shape[0], a.shape[1] + 6), a.dtype)
    wide[:, 3:-3] = cupy.asnumpy(a)
    return cupy.asarray(wide)[:, 3:-3]


@pytest.mark.gpu
def test_captured_calls_replay() -> None:
    a, layer = real()
    first, out = layer(a), cupy.empty((16, 512), cupy.float16)
    expected = cupy.asnumpy(layer(first))
    between = cupy.empty_like(out)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        layer(a, out=between)
        layer(between, out=out)
        graph = stream.end_capture()
    for poison in (0, 0xFF):
        for x in (out, between):
            x.data.memset_async(poison, x.nbytes, stream)
        graph.launch(stream)
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(cupy.asnumpy(out), expected)
    a.data.memset_async(0, a.nbytes, stream)  # replays read what stands there then
    graph.launch(stream)
    stream.synchronize()
    assert not cupy.asnumpy(out).any()


@pytest.mark.gpu
def test_capture_of_a_kernel_never_loaded_asks_for_a_warm_up() -> None:
    a, layer = real(activation="gelu_tanh")
    stream = cupy.cuda.Stream(non_blocking=True)
    out = cupy.empty((16, 512), cupy.float16)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(W4A16Error, match="warm up before the capture"):
                layer(a, out=out, config=GemmConfig(128, 16, stages=2))  # that no other test runs
        finally:
            stream.end_capture()


@pytest.mark.gpu
def test_copy_inside_a_capture_wants_a_workspace_or_a_linear() -> None:
    a, layer = real(pdl=False)  # as gemm: the same config
    expected = cupy.asnumpy(layer(a))
    odd, out, by_layer = shifted(a), *(cupy.empty((16, 512), cupy.float16) for _ in range(2))
    weight = (layer.b_packed, layer.scales, None, 128)
    workspace = cupy.empty(workspace_bytes(GemmProblem(16, 512, 512)), cupy.uint8)
    np.testing.assert_array_equal(cupy.asnumpy(gemm(odd, *weight, workspace=workspace)), expected)
    np.testing.assert_array_equal(cupy.asnumpy(layer(odd)), expected)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        with pytest.raises(W4A16Error, match="pass an aligned a, or workspace="):
            gemm(odd, *weight, out=out)
        gemm(odd, *weight, out=out, workspace=workspace)
        layer(odd, out=by_layer)
        graph = stream.end_capture()
        others = [cupy.zeros(a.shape, a.dtype) for _ in range(8)]  # what the pool has, if it were the copy's
    for _ in range(2):
        for x in (out, by_layer):
            x.data.memset_async(0xFF, x.nbytes, stream)
        graph.launch(stream)
        stream.synchronize()
        for x in (out, by_layer):
            np.testing.assert_array_equal(cupy.asnumpy(x), expected)
    assert all(not cupy.asnumpy(other).any() for other in others), "a replay wrote to memory of others"


@pytest.mark.gpu
def test_streams_at_once_do_not_meet() -> None:
    a, layer = real(m=64)
    odd = shifted(a)  # copied at each call
    expected = cupy.asnumpy(layer(odd))
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    results = []
    for _ in range(20):
        for stream in streams:
            with stream:
                results += [layer(a), layer(odd)]
    for stream in streams:
        stream.synchronize()
    for c in results:
        np.testing.assert_array_equal(cupy.asnumpy(c), expected)


@pytest.mark.gpu
def test_threads_at_once_do_not_meet() -> None:
    a, layer = real(m=64)
    expected = {m: cupy.asnumpy(layer(a[:m])) for m in (1, 5, 64)}
    cupy.cuda.Device().synchronize()
    failed: list[Any] = []

    def call(out: Any, stream: Any) -> None:
        try:  # the launch is the first this thread asks of CUDA: it has no context yet
            with stream:
                for i in range(60):
                    m = (1, 5, 64)[i % 3]
                    c = layer(a[:m], out=out[:m])
                    stream.synchronize()
                    np.testing.assert_array_equal(cupy.asnumpy(c), expected[m])
        except BaseException as error:
            failed.append(error)

    outs = [cupy.empty((64, 512), cupy.float16) for _ in range(2)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    threads = [threading.Thread(target=call, args=pair) for pair in zip(outs, streams, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
