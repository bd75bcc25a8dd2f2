"""Checkpoints that are damaged, foreign or hostile: a clear error that names what it found, and no crash."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.checkpoints import layer, named, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import Linear, load_checkpoint
from cupy_w4a16.__main__ import main
from cupy_w4a16.checkpoint import files as checkpoint_files

X = layer(64, 16)
PLAIN = {"norm": np.ones(8, np.float16)}
INDEX = "model.safetensors.index.json"
FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", named({"x": made.gptq(X)}, PLAIN), made.GPTQ)


def refuse(path: Path, error: type[Exception], message: str) -> None:
    """`load_checkpoint` refuses it, before or while it reads; so does the command line, in one line."""
    with pytest.raises(error, match=message):
        dict(load_checkpoint(path))
    dest = path.parent / "dest.safetensors"
    assert main(["convert", str(path), str(dest)]) == 2
    assert not dest.exists()
    assert not list(path.parent.glob(".dest*"))


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "has quant_method 'bitsandbytes': served are gptq, awq, compr"),
        ({}, "has quant_method None"),
        ({"quant_method": ["gptq"]}, r"has quant_method \['gptq'\]"),
        (made.GPTQ | {"bits": 8}, "config.json, quant_method 'gptq': bits is 8: only 4-bit"),
        (made.GPTQ | {"bits": "4"}, "bits is '4'"),
        (made.GPTQ | {"bits": True}, "bits is True"),
        (made.GPTQ | {"bits": None}, "bits is None"),
        (made.GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin': served are gptq and"),
        (made.GPTQ | {"is_marlin_format": True}, "checkpoint_format is 'marlin'"),
        (made.GPTQ | {"checkpoint_format": ["x"]}, r"checkpoint_format is \['x'\]"),
        (made.GPTQ | {"group_size": "32"}, "group_size is '32': an integer"),
        (made.GPTQ | {"group_size": 64}, r"layer 'x' \(gptq.*scales has 2 groups, but group_size 64"),
        (made.GPTQ | {"group_size": 16}, "layer 'x' .*group_size is 16: served are powers of two"),
        (made.GPTQ | {"sym": 1}, "sym is 1: true or false"),
        (made.GPTQ | {"sym": True}, "layer 'x' .*symmetric is True, but qzeros holds zeros"),
        (made.AWQ | {"version": "gemv"}, "version is 'gemv': served is 'gemm'"),
        (made.AWQ | {"bits": 3}, "quant_method 'awq': bits is 3"),
        (made.AWQ, r"layer 'x' \(awq.*qweight is of shape"),
        (made.COMPRESSED, r"has no tensor \*.weight_packed, in which compressed-tensors"),
        (made.COMPRESSED | {"format": "int-quantized"}, "format is 'int-quantized': served is 'pack-quan"),
        (made.COMPRESSED | {"config_groups": {}}, "config_groups is empty"),
        (made.COMPRESSED | {"config_groups": [1]}, r"config_groups is \[1\]"),
        (made.COMPRESSED | {"config_groups": {"a": 3}}, "config_groups is {'a': 3}"),
        (made.COMPRESSED | {"config_groups": {"a": {"weights": None}}}, "weights is None"),
        (made.COMPRESSED | {"transform_config": {"config_groups": {"R1": {}}}}, "transform_config is set"),
        (made.COMPRESSED | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "only dense weights"),
        (made.COMPRESSED | {"sparsity_config": "x"}, "only dense weights"),
        (made.weights_scheme(num_bits=8), r"config_groups\['group_0'\]: num_bits is 8: only 4-bit"),
        (made.weights_scheme(type="float"), "type is 'float'"),
        (made.weights_scheme(strategy="block"), "strategy is 'block': served are 'group' and 'channel'"),
        (made.weights_scheme(symmetric="no"), "symmetric is 'no'"),
        ([], "quantization_config is a list, not an object"),
    ],
)
def test_quantisation_that_is_not_served_is_named(settings: Any, message: str, folder: Path) -> None:
    write_folder(folder, named({"x": made.gptq(X)}, PLAIN), settings)
    refuse(folder, ValueError, message)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"a": 1, "a": 2}', "[" * 100_000, '{"x": ' + "1" * 10_000 + "}", "\xff"]
)
@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_json_that_is_damaged_is_named(name: str, text: str, folder: Path) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    refuse(folder, ValueError, f"{name} is damaged")


def test_json_of_absurd_size_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "MAX_HEADER_BYTES", 10)
    refuse(folder, ValueError, "where 10 are allowed")


# ------------------------------------------------------------------------------------ files


def edited_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / INDEX
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.pop("weight_map"), "weight_map is a NoneType"),
        (lambda index: index.update(weight_map=[]), "weight_map is a list"),
        (lambda index: index.update(weight_map={}), "names no tensor"),
        (lambda index: index["weight_map"].update(norm=3), "puts tensor 'norm' into 3"),
        (lambda index: index["weight_map"].update(norm="../" + FIRST), r"into '../model.*no \*.safetensors"),
        (lambda index: index["weight_map"].update(norm="/etc/passwd"), "into '/etc/passwd'"),
        (lambda index: index["weight_map"].update(norm=""), "into ''"),
        (lambda index: index["weight_map"].update(norm="pytorch_model.bin"), "pickles run code"),
        (lambda index: index["weight_map"].update(other=FIRST), "puts tensor 'other' into .*not"),
        (lambda index: index["weight_map"].update({"x.qweight": SECOND}), "puts tensor 'x.qweight' into"),
    ],
)
def test_index_that_leads_nowhere_is_named(change: Any, message: str, folder: Path) -> None:
    edited_index(folder, change)
    refuse(folder, ValueError, message)


def test_missing_shard_is_named(folder: Path) -> None:
    (folder / SECOND).unlink()
    refuse(folder, FileNotFoundError, f"names 2 files, of which 1 are missing: {SECOND}")


def test_tensor_in_two_shards_is_a_clash(folder: Path) -> None:
    (folder / SECOND).write_bytes(made.safetensors_bytes(named({"x": made.gptq(X)}, PLAIN)))
    refuse(folder, ValueError, "stands in .* and in ")


def test_layer_and_array_of_one_name_clash(folder: Path) -> None:
    write_folder(folder, named({"x": made.gptq(X)}, {"x": np.ones(3, np.float16)}), made.GPTQ)
    refuse(folder, ValueError, "has both a tensor 'x' and a quantised layer")


def test_shards_cut_anywhere_are_refused(folder: Path) -> None:
    whole = (folder / FIRST).read_bytes()
    for length in range(0, len(whole), 97):
        (folder / FIRST).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=FIRST):
            load_checkpoint(folder)


def test_path_that_is_none_is_an_os_error(tmp_path: Path) -> None:
    refuse(tmp_path / "none.safetensors", FileNotFoundError, "none.safetensors")
    refuse(tmp_path, FileNotFoundError, "holds no checkpoint")


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "trapped"),)

    folder = tmp_path / "model"
    folder.mkdir()
    data = pickle.dumps({"x": Trap()})
    for name in ("pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(data)
        refuse(folder / name, ValueError, "pickles run code when loaded and are refused")
    refuse(
        folder, ValueError, "model.pt, pytorch_model.bin and no safetensors or GGUF file: pickles run code"
    )
    (folder / "model.safetensors").write_bytes(data)
    refuse(folder, ValueError, "a pickle, which runs code")
    assert not (tmp_path / "trapped").exists()


def test_several_checkpoints_in_a_folder_are_not_guessed_at(folder: Path) -> None:
    (folder / INDEX).unlink()
    refuse(folder, ValueError, "has 2 checkpoints and no index of them: pass one of model-00001")
    (folder / "a.safetensors.index.json").write_text("{}")
    (folder / "b.safetensors.index.json").write_text("{}")
    refuse(folder, ValueError, "has 2 checkpoints")


def test_part_of_a_split_gguf_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00003.gguf"
    path.write_bytes(made.gguf_bytes({}))
    refuse(path, ValueError, "is one of 3 parts of a GGUF model: join them")


# ------------------------------------------------------------------------------------ tensors


def changed(parts: dict[str, np.ndarray], **others: Any) -> dict[str, np.ndarray]:
    return {name: x for name, x in (parts | others).items() if x is not None}


G, A, C = made.gptq(X), made.awq(X), made.compressed(X)


@pytest.mark.parametrize(
    ("settings", "parts", "message"),
    [
        (made.GPTQ, changed(G, scales=None), "has x.qweight, but not x.scales: it is not whole"),
        (made.GPTQ, changed(G, qzeros=None, scales=None), "but not x.qzeros and x.scales"),
        (made.GPTQ, changed(G, qweight=None), r"has no tensor \*.qweight"),
        (made.GPTQ, changed(G, qweight=np.zeros((0, 16), np.int32)), r"x.qweight is empty, of shape \(0,"),
        (made.GPTQ, changed(G, qweight=G["qweight"].astype(np.int64)), "layer 'x' .*qweight is int64"),
        (made.GPTQ, changed(G, scales=G["scales"].astype(np.float32)), "layer 'x' .*scales is float32"),
        (made.GPTQ, changed(G, qzeros=G["qzeros"][:1]), "layer 'x' .*qzeros is of shape"),
        (made.GPTQ, changed(G, g_idx=G["g_idx"][:-1]), "layer 'x' .*g_idx is of shape"),
        (made.GPTQ, changed(G, g_idx=np.zeros(64, np.int32)), "layer 'x' .*g_idx holds groups"),
        (made.GPTQ, changed(G, bias=np.ones(15, np.float16)), "layer 'x' .*bias is of shape"),
        (made.GPTQ, changed(G, bias=np.ones(16, np.int32)), "layer 'x' .*bias is int32: floats"),
        (made.GPTQ, changed(G, bias=np.full(16, 1e6, np.float32)), "layer 'x' .*no finite float16"),
        (made.AWQ, changed(A, qzeros=None), "has x.qweight, but not x.qzeros"),
        (made.AWQ, changed(A, scales=A["scales"][:, :8]), "layer 'x' .*qweight is of shape"),
        (made.COMPRESSED, changed(C, weight_zero_point=None), "but not x.weight_zero_point"),
        (made.COMPRESSED, changed(C, weight_shape=np.array([16, 72])), "layer 'x' .*weight_shape says"),
        (made.COMPRESSED, changed(C, weight_shape=np.array([16])), "layer 'x' .*two sizes are needed"),
        (made.COMPRESSED, changed(C, weight_shape=np.array([[16, 64]])), "layer 'x' "),
        (made.COMPRESSED, changed(C, weight_shape=np.array([np.inf, 1], np.float32)), "layer 'x' "),
        (made.COMPRESSED, changed(C, weight_shape=np.array([np.nan, 1], np.float32)), "layer 'x' "),
        (made.weights_scheme(symmetric=True), C, "layer 'x' .*weight_zero_point holds zeros from"),
    ],
)  # fmt: skip
def test_tensors_that_make_no_layer_are_named(settings: Any, parts: Any, message: str, folder: Path) -> None:
    write_folder(folder, named({"x": parts}, PLAIN), settings)
    refuse(folder, ValueError, message)


def test_layers_of_8_bits_beside_ours_are_named_and_can_be_left_out(folder: Path) -> None:
    settings = made.weights_scheme()
    settings["config_groups"]["b"] = made.weights_scheme(num_bits=8)["config_groups"]["group_0"]
    eight = changed(C, weight_packed=np.repeat(C["weight_packed"], 2, axis=1))
    write_folder(folder, named({"x": C, "y": eight}, {}), settings)
    assert [type(value) for _, value in load_checkpoint(folder, names="x")] == [Linear]
    refuse(folder, ValueError, "layer 'y' .*codes of 8 bits")


def test_gguf_tensors_that_make_no_layer_are_named(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "model.gguf"
    data = made.q4_bytes(layer(32, 4, symmetric=True))
    for tensors, message in (
        ({"w": ("Q4_0", (32, 2, 2), data)}, r"tensor 'w' is Q4_0 of shape \(32, 2, 2\): served is \(k, n\)"),
        (
            {"w.weight": ("Q4_0", (32, 4), data), "w.bias": ("F32", (3,), bytes(12))},
            r"layer 'w' .*bias is of shape \(3,\)",
        ),
        (
            {"w.weight": ("Q4_0", (32, 4), data), "w.bias": ("Q4_0", (32, 4), data)},
            "bias 'w.bias' is Q4_0",
        ),
        (
            {"w.weight": ("Q4_0", (32, 4), data), "w": ("F32", (1,), bytes(4))},
            "both a tensor 'w' and a quantised layer",
        ),
        ({"w": ("Q4_0", (32, 4), b"\x00\x7c" + data[2:])}, "infinite or NaN"),
    ):
        path.write_bytes(made.gguf_bytes(tensors))
        refuse(path, ValueError, message)


# ------------------------------------------------------------------------------------ fuzzing


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["gptq", "awq", "gemm", "compressed-tensors", "pack-quantized", "group", FIRST])
)  # fmt: skip
KEYS = st.sampled_from([
    "quant_method", "bits", "group_size", "sym", "checkpoint_format", "dynamic", "meta", "version", "format",
    "config_groups", "weights", "num_bits", "symmetric", "strategy", "weight_map", "quantization_config",
])  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


def visit(folder: Path) -> None:
    """Every exception but a ValueError or OSError that names the folder is a crash."""
    try:
        for name, value in load_checkpoint(folder):
            assert isinstance(name, str)
            assert isinstance(value, (Linear, np.ndarray))
    except (ValueError, OSError) as error:
        told = str(folder) in str(error)
    else:
        told = True
    assert told


def fresh(parent: Path, kind: dict[str, np.ndarray], settings: Any) -> Path:
    folder = parent / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    return write_folder(folder, named({"x": kind}, PLAIN), settings)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([(made.GPTQ, G), (made.AWQ, A), (made.COMPRESSED, C)]),
    st.dictionaries(KEYS, JSON, max_size=3),
    st.booleans(),
)
def test_drawn_settings_give_layers_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, kind: Any, drawn: dict[str, Any], inside: bool
) -> None:
    settings, parts = kind
    visit(fresh(tmp_path_factory.getbasetemp(), parts, settings | drawn if inside else drawn))


@settings(deadline=None, max_examples=100)
@given(JSON, st.dictionaries(st.sampled_from(["x.qweight", "x.scales", "y", "norm"]), LEAVES, max_size=3))
def test_drawn_indices_give_layers_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, index: Any, changes: dict[str, Any]
) -> None:
    folder = fresh(tmp_path_factory.getbasetemp(), G, made.GPTQ)
    edited_index(folder, lambda index: index["weight_map"].update(changes))
    visit(folder)
    (folder / INDEX).write_text(json.dumps(index))
    visit(folder)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([(made.GPTQ, G), (made.AWQ, A), (made.COMPRESSED, C), (None, G)]),
    st.data(),
)
def test_drawn_shapes_and_dtypes_give_layers_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, kind: Any, data: st.DataObject
) -> None:
    settings, parts = kind
    name = data.draw(st.sampled_from(sorted(parts)))
    sizes = st.sampled_from([0, 1, 2, 4, 8, 16, 64])
    shape = data.draw(st.lists(sizes, max_size=3))
    dtype = data.draw(st.sampled_from(["int32", "int64", "uint8", "float16", "float32", made.BFLOAT16]))
    drawn = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    visit(fresh(tmp_path_factory.getbasetemp(), changed(parts, **{name: np.asarray(drawn)}), settings))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_header_bytes_give_layers_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = fresh(tmp_path_factory.getbasetemp(), G, made.GPTQ)
    damaged = bytearray((folder / FIRST).read_bytes())
    end = 8 + int.from_bytes(damaged[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, end - 1))
        damaged[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789"[]{},:-.e'))
    (folder / FIRST).write_bytes(damaged)
    visit(folder)
