"""A sentence encoder of random weights, and the demo's own where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.tiny_encoder import write_tiny_encoder

from cupy_w4a16.demo import model_files
from cupy_w4a16.demo.model_files import Model, find_model, load_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Model:
    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def real() -> Model:
    try:
        return load_model(find_model())
    except model_files.DemoError as error:
        pytest.skip(f"the demo's model is not here: {error}")
