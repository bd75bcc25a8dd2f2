"""Settings are found wherever tools put them, and the tensors' look stands in for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints as made
from helpers.checkpoint_kinds import DOWN, KINDS, UP, assert_loaded, tensors
from helpers.checkpoints import layer, write_folder

from cupy_w4a16 import load_checkpoint


@pytest.mark.parametrize("kind", ["gptq", "gptq-act-order", "awq", "compressed-tensors"])
def test_file_without_settings_is_recognised_by_its_tensors(kind: str, tmp_path: Path) -> None:
    _, wanted, write = KINDS[kind]
    path = tmp_path / "any-name.safetensors"
    path.write_bytes(made.safetensors_bytes(tensors(wanted, write)))
    assert "the look of its tensors" in repr(load_checkpoint(path))
    assert_loaded(load_checkpoint(path), wanted)


@pytest.mark.parametrize("kind", ["gptq-v2", "awq"])
def test_settings_beside_a_file_count(kind: str, tmp_path: Path) -> None:
    settings, wanted, write = KINDS[kind]
    folder = write_folder(tmp_path / "model", tensors(wanted, write), settings, 1)
    assert_loaded(load_checkpoint(folder / "model.safetensors"), wanted)


@pytest.mark.parametrize(
    ("name", "settings", "kind"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 32, "sym": False, "desc_act": False}, "gptq"),
        ("quant_config.json", {"w_bit": 4, "q_group_size": 32, "zero_point": True, "version": "GEMM"}, "awq"),
    ],
)
def test_settings_of_older_tools_are_read(name: str, settings: Any, kind: str, tmp_path: Path) -> None:
    _, wanted, write = KINDS[kind]
    folder = write_folder(tmp_path / "model", tensors(wanted, write))
    (folder / name).write_text(json.dumps(settings))
    checkpoint = load_checkpoint(folder)
    assert name in checkpoint.format
    assert_loaded(checkpoint, wanted)


def test_settings_of_a_model_of_texts_and_images_are_found(tmp_path: Path) -> None:
    _, wanted, write = KINDS["gptq-v2"]
    folder = write_folder(tmp_path / "model", tensors(wanted, write))
    config = {"text_config": {"quantization_config": KINDS["gptq-v2"][0]}}
    (folder / "config.json").write_text(json.dumps(config))
    assert_loaded(load_checkpoint(folder), wanted)


def test_groups_of_layers_with_settings_of_their_own(tmp_path: Path) -> None:
    settings = made.weights_scheme()
    settings["config_groups"]["group_1"] = made.weights_scheme(group_size=64)["config_groups"]["group_0"]
    wanted = {UP: layer(96, 72), DOWN: layer(128, 64, 64, symmetric=True)}
    folder = write_folder(tmp_path / "model", tensors(wanted, made.compressed), settings)
    assert_loaded(load_checkpoint(folder), wanted)
