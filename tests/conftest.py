"""Which marked tests run, `gpu` on a Hopper GPU and `slow` when asked for; what tests of many kinds share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.fake_driver import FakeDriver

    from cupy_w4a16.demo.model_files import Model

pytest.register_assert_rewrite("helpers")  # so that an assert that fails there shows its values too


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run it with -m slow"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):  # asked here, so that a run without such tests never initialises CUDA
        reason = why_no_hopper()
        if reason:
            pytest.skip(f"needs a Hopper GPU: {reason}")


@functools.cache
def why_no_hopper() -> str:
    """Return why the current GPU can't run the kernels, or "" when it can."""
    try:
        import cupy

        capability = cupy.cuda.Device().compute_capability
    except Exception as error:  # no CuPy, no driver, no device, an old driver: each has an error of its own
        return f"{type(error).__name__}: {error}"
    return "" if capability == "90" else f"this GPU has compute capability {capability}, not 90"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel cache of this test's own, not yet there."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A CUDA driver that keeps what it is told."""
    from helpers import fake_driver  # here, so that a run without such tests needs no CuPy

    return fake_driver.install(monkeypatch)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sentence encoder of random weights."""
    from helpers.tiny_encoder import write_tiny_encoder  # here, as it needs safetensors

    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    from cupy_w4a16.demo.model_files import load_model

    return load_model(tiny_folder)
