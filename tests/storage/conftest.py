"""A place to save at, and a file that was saved there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.stored import N, linear, weight

from cupy_w4a16 import save


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    save(path, {"up": weight(symmetric=False), "down": linear(), "norm": np.ones(N, np.float16)})
    return path
