"""The demo's own sentence encoder, where it is installed."""

from __future__ import annotations

import pytest

from cupy_w4a16.demo import model_files
from cupy_w4a16.demo.model_files import Model, find_model, load_model


@pytest.fixture(scope="session")
def real() -> Model:
    try:
        return load_model(find_model())
    except model_files.DemoError as error:
        pytest.skip(f"the demo's model is not here: {error}")
