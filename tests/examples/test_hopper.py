"""Which GPUs examples run on."""

from __future__ import annotations

from types import SimpleNamespace

import cupy
import pytest

from cupy_w4a16.examples.hopper import has_hopper


@pytest.mark.parametrize(
    ("present", "capability", "expected"), [(True, "90", True), (True, "100", False), (False, "", False)]
)
def test_examples_run_on_a_hopper_alone(
    present: bool, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def device() -> SimpleNamespace:
        assert present, "a GPU was asked for, where there is none"
        return SimpleNamespace(compute_capability=capability)

    monkeypatch.setattr(cupy.cuda, "is_available", lambda: present)
    monkeypatch.setattr(cupy.cuda, "Device", device)
    assert has_hopper() is expected


@pytest.mark.gpu
def test_examples_run_on_this_gpu() -> None:
    assert has_hopper()
