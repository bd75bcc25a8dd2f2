"""Dependent launch on a GPU: nothing but weights is touched before the kernel ahead has finished."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import cupy
import numpy as np
import pytest

from cupy_w4a16 import GemmConfig, GemmProblem, Linear, _driver, choose_config, gemm
from cupy_w4a16.testing import make_problem

pytestmark = pytest.mark.gpu

M, N = 40, 512
SPIN_NS = 2_000_000  # what is launched behind must have started long before this is over
#: One of each way to wait: persistent tiles, turns, clusters that share operands, sums or a block; mma.
CONFIGS = (
    GemmConfig(128, 128),
    GemmConfig(64, 128, schedule="pingpong"),
    GemmConfig(256, 128, cluster_n=2),
    GemmConfig(64, 16, split_k_warpgroups=2, split_k_cluster=2),
    GemmConfig(160, 32, split_k_cluster=2),
    GemmConfig(16, 2, family="mma", scale_on="accumulators", stages=4),
)

# `slow` lets those behind it start at once, and only then takes its time. `hasty` waits for nobody.
SOURCE = r"""
extern "C" __global__ void slow(unsigned short* late, const unsigned short* values, int size,
                                unsigned short* seen, const unsigned short* out, int size_out, long long ns) {
  asm volatile("griddepcontrol.launch_dependents;");
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now) :: "memory");
  } while (now - start < ns);
  for (int i = threadIdx.x; i < size_out; i += blockDim.x) seen[i] = out[i];
  for (int i = threadIdx.x; i < size; i += blockDim.x) late[i] = values[i];
}

extern "C" __global__ void hasty(const unsigned short* a, unsigned short* out) {
  out[threadIdx.x] = a[threadIdx.x];
}
"""


class Behind:
    """A slow kernel, in a graph with what `call` launches behind it.

    It writes `values` to an argument of `call`, zeros until then, when it is nearly over; before, it looks at
    `out`, full of `POISON`.
    """

    POISON = 0xFFFF

    def __init__(self, values: Any, out: Any, call: Callable[[Any], None]) -> None:
        self.late, self.out, self.seen = cupy.empty_like(values), out, cupy.empty_like(out)
        slow = cupy.RawKernel(SOURCE, "slow")
        size = np.int32(values.nbytes // 2)
        given = (self.late, values, size, self.seen, out, np.int32(out.size))
        slow((1,), (256,), (*given, np.int64(0)))  # loaded before the capture
        call(self.late)
        cupy.cuda.Device().synchronize()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        with self.stream:
            self.stream.begin_capture()
            slow((1,), (256,), (*given, np.int64(SPIN_NS)))
            call(self.late)
            self.graph = self.stream.end_capture()

    def run(self) -> None:
        self.late.data.memset_async(0, self.late.nbytes, self.stream)
        self.out.data.memset_async(0xFF, self.out.nbytes, self.stream)
        self.stream.synchronize()  # so that the slow kernel is all that is waited for
        self.graph.launch(self.stream)
        self.stream.synchronize()

    def early_writes(self) -> int:
        return int(np.count_nonzero(bits(self.seen) != self.POISON))


def bits(x: Any) -> Any:
    return cupy.asnumpy(x).view(np.uint16)


def dependent(kernel: Any, *arrays: Any) -> None:
    """A dependent launch of 32 threads of another's kernel on the current stream."""
    places = [ctypes.c_void_p(x.data.ptr) for x in arrays]
    parameters = (ctypes.c_void_p * len(places))(*map(ctypes.addressof, places))
    attribute = _driver.dependent_attribute()
    config = _driver.LaunchConfig()
    config.grid[:], config.block[:] = (1, 1, 1), (32, 1, 1)
    config.stream = cupy.cuda.get_current_stream().ptr
    config.attributes, config.num_attributes = ctypes.addressof(attribute), 1
    function = ctypes.c_void_p(int(kernel.kernel.ptr))
    status = _driver.library().cuLaunchKernelEx(ctypes.byref(config), function, parameters, None)
    _driver.check(status, "launching a test's kernel")


def on_gpu(m: int, n: int, k: int, seed: int = 0, dtype: str = "float16") -> list[Any]:
    return [cupy.asarray(x) for x in make_problem(m, n, k, dtype=dtype, seed=seed)[:3]]


def test_kernel_that_does_not_wait_reads_too_early() -> None:
    # What the test below would see of a product that did not wait: without this, it could not fail.
    new_a, out = cupy.asarray(np.ones(32, np.float16)), cupy.empty(32, np.float16)
    hasty = cupy.RawKernel(SOURCE, "hasty")
    hasty.compile()
    behind = Behind(new_a, out, lambda a: dependent(hasty, a, out))
    behind.run()
    assert not bits(out).any()
    assert behind.early_writes() == 32


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_activations_and_out_are_left_alone_until_the_kernel_before_is_over(config: GemmConfig) -> None:
    a, b_packed, scales = on_gpu(M, N, N)
    expected = gemm(a, b_packed, scales, group_size=128, config=config)
    out = cupy.empty_like(expected)

    def call(a: Any) -> None:
        gemm(a, b_packed, scales, group_size=128, config=config, out=out, pdl=True)

    behind = Behind(a, out, call)
    for _ in range(3):
        behind.run()
        np.testing.assert_array_equal(bits(out), bits(expected))
        assert behind.early_writes() == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_weights_are_read_while_the_kernel_before_is_at_work(config: GemmConfig) -> None:
    # What dependent launch is for, and why weights must be complete before: all CTAs and k are in flight.
    a, b_packed, scales = on_gpu(2, N, 128)
    options = {"group_size": 128, "config": config}
    early = gemm(a, cupy.zeros_like(b_packed), scales, **options)
    in_time = gemm(a, b_packed, scales, **options)
    out = cupy.empty_like(early)

    def call(b_packed: Any, pdl: bool) -> None:
        gemm(a, b_packed, scales, out=out, pdl=pdl, **options)

    for pdl, expected in ((False, in_time), (True, early)):
        Behind(b_packed, out, partial(call, pdl=pdl)).run()
        np.testing.assert_array_equal(bits(out), bits(expected))


def test_linear_made_behind_the_kernel_that_writes_its_weights_is_right() -> None:
    # bfloat16: of float16 scales a Linear makes a copy, for which it waits anyway.
    a, b_packed, scales = on_gpu(M, N, N, dtype="bfloat16")
    expected = gemm(a, b_packed, scales, group_size=128, config=CONFIGS[0])
    late, out = cupy.zeros_like(b_packed), cupy.empty_like(expected)
    slow = cupy.RawKernel(SOURCE, "slow")
    slow.compile()
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        size = np.int32(late.nbytes // 2)
        slow((1,), (256,), (late, b_packed, size, out, out, np.int32(0), np.int64(SPIN_NS)))
        Linear(late, scales, group_size=128, pdl=True)(a, out, CONFIGS[0])
    stream.synchronize()
    np.testing.assert_array_equal(bits(out), bits(expected))


def test_copy_of_an_unaligned_a_is_waited_for() -> None:
    # On a stream, without a graph: each round's copy lies where the one before it was.
    values, b_packed, scales = on_gpu(M, N, N)
    options = {"group_size": 128, "config": CONFIGS[0]}
    expected = bits(gemm(values, b_packed, scales, **options))
    wide = np.zeros((M, N + 6), np.float16)
    wide[:, 3:-3] = cupy.asnumpy(values)
    odd = cupy.asarray(wide)[:, 3:-3]
    zeros = cupy.asarray(np.zeros_like(wide))[:, 3:-3]
    out, of_zeros = cupy.empty((M, N), np.float16), cupy.empty((M, N), np.float16)
    cupy.cuda.Device().synchronize()
    for _ in range(50):
        gemm(odd, b_packed, scales, out=out, pdl=True, **options)
        gemm(zeros, b_packed, scales, out=of_zeros, pdl=True, **options)
        np.testing.assert_array_equal(bits(out), expected)
        assert not cupy.asnumpy(of_zeros).any()


@pytest.mark.parametrize(
    ("m", "configs"), [(1, ()), (16, ()), (200, ()), (M, CONFIGS)], ids=["m1", "m16", "m200", "every way"]
)
def test_chain_of_layers_gives_the_bits_of_one_without(m: int, configs: tuple[GemmConfig, ...]) -> None:
    # Two buffers in turns: a layer that starts too early reads what is not there yet, or writes what the
    # layer before still reads.
    layers = 10
    configs = configs or (choose_config(GemmProblem(m, N, N), pdl=True),)
    weights = [on_gpu(1, N, N, seed)[1:] for seed in range(layers)]
    start = on_gpu(m, N, N)[0]
    results = []
    for pdl in (False, True):
        made = [Linear(b_packed, scales, group_size=128, pdl=pdl) for b_packed, scales in weights]
        buffers = [start.copy(), cupy.empty_like(start)]
        results.append(_eager_and_replayed(partial(_pass_through, made, buffers, configs), buffers, start))
    first = results[0][0]
    assert np.isfinite(first.view(np.float16)).all()
    assert np.count_nonzero(first) > first.size // 2
    for result in (*results[0], *results[1]):
        np.testing.assert_array_equal(result, first)


def _pass_through(layers: list[Linear], buffers: list[Any], configs: tuple[GemmConfig, ...]) -> None:
    for i, layer in enumerate(layers):
        layer(buffers[i % 2], out=buffers[1 - i % 2], config=configs[i % len(configs)])


def _eager_and_replayed(chain: Callable[[], None], buffers: list[Any], start: Any) -> list[Any]:
    """What stands in the first buffer after the chain: launched from Python, and ten replays of a graph."""
    stream = cupy.cuda.Stream(non_blocking=True)
    found, graph = [], None
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(11):
            buffers[0].data.copy_from_device_async(start.data, start.nbytes, stream)
            buffers[1].data.memset_async(0xFF, start.nbytes, stream)
            if graph is None:
                chain()
            else:
                graph.launch(stream)
            stream.synchronize()
            found.append(bits(buffers[0]))
            if graph is None:
                stream.begin_capture()
                chain()
                graph = stream.end_capture()
    return found
