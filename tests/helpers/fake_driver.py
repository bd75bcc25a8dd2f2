"""A CUDA driver that keeps what it is told, so that launches can be looked at where there is no GPU.

Arrays are real `cupy.ndarray` objects over addresses that nothing reads.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import cupy
import pytest

from cupy_w4a16 import _choice, _device, _driver, _gemm, _launch, linear
from cupy_w4a16._bounded import Bounded
from cupy_w4a16._driver import LaunchAttribute, LaunchConfig
from cupy_w4a16._load import LoadedKernel

MAX_CLUSTERS = 132
CLUSTER, DEPENDENT = 4, 6  # CUlaunchAttributeID


def on_gpu(shape: Any, dtype: Any, at: int, strides: Any = None, device: int = 0) -> Any:
    """A CuPy array that claims to lie at `at`."""
    memory = cupy.cuda.UnownedMemory(at, 1 << 50, None, device)
    return cupy.ndarray(shape, dtype, memptr=cupy.cuda.MemoryPointer(memory, 0), strides=strides)


def no_device() -> int:
    """In place of a call of CUDA's runtime: there is no GPU."""
    raise cupy.cuda.runtime.CUDARuntimeError(100)  # cudaErrorNoDevice


def _attribute(attribute: LaunchAttribute) -> tuple[int, tuple[int, ...]]:
    """A launch attribute's number and value; a value of one that we don't use is an error."""
    values = {CLUSTER: tuple(attribute.value.dims), DEPENDENT: (attribute.value.flag,)}
    return attribute.id, values[attribute.id]


def _address(argument: Any) -> int:
    return ctypes.cast(argument, ctypes.c_void_p).value or 0


@dataclass(frozen=True)
class Launched:
    """One launch, as the driver saw it; the maps are what `encode` below writes."""

    function: int
    grid: tuple[int, ...]
    block: tuple[int, ...]
    smem_bytes: int
    stream: int
    attributes: tuple[tuple[int, tuple[int, ...]], ...]
    params: dict[str, Any]


class FakeDriver:
    """The calls of libcuda that launches make. `statuses` are returned by the next launches."""

    def __init__(self) -> None:
        self.launches: list[Launched] = []
        self.maps = 0
        self.statuses: list[int] = []

    @property
    def last(self) -> Launched:
        return self.launches[-1]

    def cuLaunchKernelEx(self, config: Any, function: Any, parameters: Any, extra: Any) -> int:
        assert extra is None
        launch = LaunchConfig.from_address(_address(config))
        at = ctypes.c_void_p.from_address(_address(parameters)).value
        assert at is not None
        params = _launch.Params.from_address(at)
        attributes = (LaunchAttribute * launch.num_attributes).from_address(launch.attributes or 0)
        if self.statuses and (status := self.statuses.pop(0)):
            return status
        self.launches.append(
            Launched(
                _address(function),
                tuple(launch.grid),
                tuple(launch.block),
                launch.smem_bytes,
                launch.stream or 0,
                tuple(_attribute(each) for each in attributes),
                {name: _plain(getattr(params, name)) for name, _ in params._fields_},
            )
        )
        return 0

    def cuTensorMapEncodeTiled(
        self, target: Any, dtype: int, rank: int, address: Any, shape: Any, strides: Any, box: Any,
        steps: Any, interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        at = _address(target)
        assert at % _driver.TENSOR_MAP_ALIGNMENT == 0
        assert (rank, tuple(steps), interleave, fill) == (2, (1, 1), 0, 0)
        # What the real one refuses.
        item_bytes = {0: 1, 3: 4, 6: 2, 7: 4, 9: 2}[dtype]
        assert swizzle in (0, 3)
        assert swizzle == 0 or box[0] * item_bytes <= 128
        assert box[0] * item_bytes % 16 == 0
        assert max(box) <= 256
        assert address.value % 16 == 0
        assert strides[0] % 16 == 0
        assert all(size > 0 for size in (*shape, *box))
        written = (ctypes.c_uint64 * 16).from_address(at)
        written[:7] = (address.value, dtype, *shape, strides[0], *box)
        self.maps += 1
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        ctypes.c_char_p.from_address(_address(text)).value = b"a planted error"
        return 0


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, ctypes.Array) else value


class Stream:
    """The current stream, by its handle; it counts how often it was waited for."""

    ptr = 0
    waits = 0
    capturing = False

    @classmethod
    def synchronize(cls) -> None:
        assert not cls.capturing
        cls.waits += 1

    @classmethod
    def is_capturing(cls) -> bool:
        return cls.capturing


def install(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A fake driver, Hopper GPU and loaded kernels in place of the real ones; `gemm` remembers nothing."""
    fake = FakeDriver()
    functions = itertools.count(0x7F00)  # one for each kernel, so that launches tell them apart

    @cache
    def load(kernel: Any, device: int) -> LoadedKernel:
        size = kernel.config.cluster_size
        return LoadedKernel(
            kernel.name, next(functions), None, kernel.threads, kernel.smem_bytes, size, MAX_CLUSTERS // size
        )

    monkeypatch.setattr(_driver, "library", lambda: fake)
    monkeypatch.setattr(_launch, "load", load)
    monkeypatch.setattr(_device, "current_device", lambda: 0)
    monkeypatch.setattr(_device, "_hopper_devices", {0})
    monkeypatch.setattr(linear, "normalised", lambda scales: None)  # it would run a kernel
    for module in (_gemm, linear):
        monkeypatch.setattr(module, "_get_device", lambda: 0)
        monkeypatch.setattr(module, "_get_stream", lambda device: Stream)
    monkeypatch.setattr(_choice, "_name_and_sms", lambda device: ("NVIDIA H100 80GB HBM3", 132))
    monkeypatch.setattr(_choice, "tuned_config", lambda *given: None)  # whatever this machine was tuned for
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda device=-1: Stream)
    for name, value in (("ptr", 0), ("waits", 0), ("capturing", False)):
        monkeypatch.setattr(Stream, name, value)
    monkeypatch.delenv("CUPY_W4A16_PDL", raising=False)
    monkeypatch.setattr(_gemm, "_plans", Bounded(64))
    monkeypatch.setattr(_gemm, "_launches", Bounded(64))
    return fake
