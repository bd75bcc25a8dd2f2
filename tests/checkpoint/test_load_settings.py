"""Settings are found wherever tools put them, and the tensors' look stands in for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.checkpoint_kinds import DOWN, KINDS, UP, assert_loaded, tensors
from helpers.checkpoints import Layer, layer, write_folder

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
    other = made.weights_scheme(group_size=64, symmetric=True)
    settings["config_groups"]["group_1"] = other["config_groups"]["group_0"]
    wanted = {UP: layer(96, 72), DOWN: layer(128, 64, 64, symmetric=True)}
    folder = write_folder(tmp_path / "model", tensors(wanted, made.compressed), settings)
    assert_loaded(load_checkpoint(folder), wanted)


@pytest.mark.parametrize("actorder", ["weight", "static", False, None])
def test_order_that_makes_no_groups_needs_no_tensor(actorder: Any, tmp_path: Path) -> None:
    wanted = {UP: layer(96, 72)}
    settings = made.weights_scheme(actorder=actorder)
    assert_loaded(load_checkpoint(write_folder(tmp_path, tensors(wanted, made.compressed), settings)), wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"desc_act": True, "group_size": -1},
        {"desc_act": True, "dynamic": {"+:.*": {"desc_act": False}}, "group_size": 96},
        {"desc_act": False, "group_size": 96},
    ],
)
def test_groups_that_are_runs_of_k_need_no_g_idx(changes: dict[str, Any], tmp_path: Path) -> None:
    wanted = {UP: layer(96, 72, -1)}
    held = {name: x for name, x in tensors(wanted, made.gptq).items() if not name.endswith("g_idx")}
    assert_loaded(load_checkpoint(write_folder(tmp_path, held, made.GPTQ | changes)), wanted)


def without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in keys}


def of_group(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """The format said of the group, and not of the whole."""
    group = settings["config_groups"]["group_0"] | {"format": kind}
    return without(settings, "format") | {"config_groups": {"group_0": group}}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (without(made.GPTQ, "checkpoint_format") | {"format": "gptq_v2"}, "gptq-v2"),
        (without(made.AWQ, "version") | {"checkpoint_format": "GEMM"}, "awq"),
        (without(made.AWQ, "version") | {"format": "gemm"}, "awq"),
        (of_group(made.COMPRESSED, "pack-quantized"), "compressed-tensors"),
    ],
)
def test_format_is_read_wherever_tools_write_it(settings: Any, kind: str, tmp_path: Path) -> None:
    _, wanted, write = KINDS[kind]
    assert_loaded(load_checkpoint(write_folder(tmp_path, tensors(wanted, write), settings)), wanted)


def test_settings_of_older_compressed_tensors_are_found(tmp_path: Path) -> None:
    settings, wanted, write = KINDS["compressed-tensors-channel"]
    folder = write_folder(tmp_path, tensors(wanted, write))
    (folder / "config.json").write_text(json.dumps({"compression_config": settings}))
    assert "config.json" in load_checkpoint(folder).format
    assert_loaded(load_checkpoint(folder), wanted)


def test_model_goes_before_other_files_of_its_folder(tmp_path: Path) -> None:
    settings, wanted, write = KINDS["gptq"]
    folder = write_folder(tmp_path, tensors(wanted, write), settings, 1)
    (folder / "consolidated.safetensors").write_bytes(b"other")
    assert_loaded(load_checkpoint(folder), wanted)


def test_asymmetric_settings_do_not_keep_zeros_of_8(tmp_path: Path) -> None:
    wanted = {UP: layer(96, 72, symmetric=True)}
    checkpoint = load_checkpoint(write_folder(tmp_path, tensors(wanted, made.gptq), made.GPTQ))
    assert_loaded(checkpoint, wanted)
    assert dict(checkpoint)[UP].zeros is None


@pytest.mark.parametrize(
    ("settings", "zero"),
    [
        (made.GPTQ, 9),
        (made.GPTQ | {"dynamic": {"+:other": {"group_size": 64}}}, 9),
        # Symmetric by default, by a layer's own settings, or nothing known: 9 everywhere is no zero point.
        (without(made.GPTQ, "sym"), 8),
        (made.GPTQ | {"dynamic": {"+:other": {"sym": True}}}, 8),
        (None, 8),
    ],
)
def test_stored_zeros_of_8_are_9_where_settings_say_asymmetric(
    settings: Any, zero: int, tmp_path: Path
) -> None:
    x = layer(96, 72)
    wanted = {UP: Layer(x.codes, np.full_like(x.zeros, zero), x.scales, x.g_idx)}
    held = tensors(wanted, lambda x: made.gptq(x, zero - 8))
    assert_loaded(load_checkpoint(write_folder(tmp_path, held, settings)), wanted)
