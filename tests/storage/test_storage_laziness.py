"""Models larger than memory: each array is read, and written, in its turn."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stored import N

from cupy_w4a16 import load, save
from cupy_w4a16.formats import _safetensors


def test_nothing_is_read_that_was_not_asked_for(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = _safetensors.Safetensors.read
    monkeypatch.setattr(
        _safetensors.Safetensors, "read", lambda self, name: read.append(name) or whole(self, name)
    )
    weights = load(saved)
    assert sorted(weights) == ["down", "norm", "up"]
    assert "up" in weights
    assert weights.options("up") == {"kind": "weight", "group_size": 32}
    assert weights.parts("up")["scales"].shape == (7, N)
    assert read == []
    _ = weights["up"]
    assert sorted(read) == ["up.b_packed", "up.scales", "up.zeros"]


def test_pairs_are_written_as_they_come(path: Path) -> None:
    alive: list[weakref.ref[Any]] = []

    def pairs() -> Iterator[tuple[str, Any]]:
        for i in range(4):
            array = np.full(1 << 10, i, np.float32)
            assert sum(each() is not None for each in alive) <= 1  # the one that save still holds
            alive.append(weakref.ref(array))
            yield f"x{i}", array

    save(path, pairs())
    assert [int(x[0]) for x in load(path).values()] == [0, 1, 2, 3]
