"""A GPTQ checkpoint of two shards, to be spoilt."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import checkpoints as made
from helpers.bad_checkpoints import PLAIN, X
from helpers.checkpoints import named, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", named({"x": made.gptq(X)}, PLAIN), made.GPTQ)
