"""What the driver refuses, and what a capture forbids, is told or mended."""

from __future__ import annotations

import re

import cupy
import pytest
from helpers.fake_calls import arrays
from helpers.fake_driver import FakeDriver

from cupy_w4a16 import GemmConfig, GemmProblem, W4A16Error, _load, gemm
from cupy_w4a16._config import NAMED_CONFIGS


def test_thread_without_a_context_gets_one(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 0)
    monkeypatch.setattr(cupy.cuda.runtime, "setDevice", bound.append)
    driver.statuses = [201]
    gemm(**arrays())
    assert (bound, len(driver.launches)) == ([0], 1)


def test_drivers_error_names_the_kernel(driver: FakeDriver) -> None:
    driver.statuses = [700]
    kernel = re.escape(NAMED_CONFIGS["w4a16_sm90_gemm_64"].name)
    with pytest.raises(W4A16Error, match=rf"launching {kernel}\w*: a planted error \(error 700\)"):
        gemm(**arrays(), config=NAMED_CONFIGS["w4a16_sm90_gemm_64"])
    gemm(**arrays())
    assert len(driver.launches) == 1


def test_kernel_not_loaded_inside_a_capture_asks_for_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from cupy_w4a16._kernels import kernel_for

    monkeypatch.setattr(_load, "is_capturing", lambda: True)
    kernel = kernel_for(GemmConfig(128, 96), GemmProblem(1, 64, 128))
    with pytest.raises(W4A16Error, match=r"warm up before the capture, by one call \(gemm"):
        _load.load(kernel, 0)


def test_stream_that_waits_for_a_capturing_one_counts_as_capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDAError(Exception):
        status = 906

    class Waiting:
        @staticmethod
        def is_capturing() -> bool:
            raise CUDAError

    monkeypatch.setattr(cupy.cuda.runtime, "CUDARuntimeError", CUDAError)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", Waiting)
    assert _load.is_capturing()
    CUDAError.status = 1
    with pytest.raises(CUDAError):
        _load.is_capturing()
