"""A CUDA driver that keeps what it is told."""

from __future__ import annotations

import pytest
from helpers import fake_driver
from helpers.fake_driver import FakeDriver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return fake_driver.install(monkeypatch)
