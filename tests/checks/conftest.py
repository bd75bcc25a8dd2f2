"""Fixtures of the argument checks: a driver that is not asked, NumPy and CuPy arrays in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
import pytest
from fake_arrays import MAKERS, Gpu
from helpers.fake_driver import on_gpu

from cupy_w4a16 import _device


@pytest.fixture(autouse=True)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    fake = Gpu()
    if request.node.get_closest_marker("gpu"):  # there is a real one
        return fake
    monkeypatch.setattr(_device, "current_device", lambda: fake.current)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", fake.properties)
    monkeypatch.setattr(_device, "_hopper_devices", set())
    return fake


@pytest.fixture(params=["numpy", "cupy"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return MAKERS[request.param]


@pytest.fixture
def views(monkeypatch):
    """CuPy's two ways in, with a driver's part left out; which was taken."""
    taken = []

    def asarray(x):
        taken.append("interface")
        shown = x.__cuda_array_interface__
        return on_gpu(shown["shape"], np.dtype(shown["typestr"]), shown["data"][0], shown.get("strides"))

    def from_dlpack(x):
        taken.append("dlpack")
        x.__dlpack__()
        return x.view

    monkeypatch.setattr(cupy, "asarray", asarray)
    monkeypatch.setattr(cupy, "from_dlpack", from_dlpack)
    return taken
