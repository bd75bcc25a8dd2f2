"""Tensors that belong to something quantized are no plain arrays, and ordinary tensors are."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.bad_checkpoints import FIRST, PLAIN, SECOND, A, C, G, X, changed, refuse
from helpers.checkpoints import layer, named, write_folder

from cupy_w4a16 import Linear, dequantize, load, load_checkpoint, save
from cupy_w4a16.__main__ import main

N, K = 64, 128
UNKNOWN = {
    "awq-gemv": ((N, K // 8), (N, 1), (N, 8)),
    "awq-8-bit": ((K, N // 4), (1, N // 4), (1, N)),
    "experts": ((2, K // 8, N), (2, 1, N // 8), (2, 1, N)),
}


def words(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.int32)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_quantized_layers_that_are_not_recognised_are_named(kind: str, tmp_path: Path) -> None:
    qweight, qzeros, scales = UNKNOWN[kind]
    parts = {"qweight": words(qweight), "qzeros": words(qzeros), "scales": np.ones(scales, np.float16)}
    folder = write_folder(tmp_path / "model", named({"m.x": parts}, PLAIN))
    message = r"tensor 'm.x.qweight' is of a layer that is quantized in a way we don't know \(qweight I32 \("
    refuse(folder, ValueError, message)
    assert load_checkpoint(folder, names="norm").names == ["norm"]


@pytest.mark.parametrize(
    ("settings", "parts", "message"),
    [
        (None, changed(G, scales=None), r"'y.qweight' .*don't know \(qweight I32 .*g_idx I32 \(64,\)\)"),
        (None, changed(G, qweight=None), r"'y.qzeros' is of a quantized layer \(qz.* are missing: it is n"),
        (made.GPTQ, changed(G, qweight=None), "'y.qzeros' .*whose codes, .*missing.*leave it out by names="),
        (made.GPTQ, {"scales": G["scales"], "g_idx": G["g_idx"]}, "'y.scales' .*whose codes"),
        (made.GPTQ, {"g_idx": G["g_idx"]}, "'y.g_idx' .*whose codes"),
        (made.GPTQ, C, "'y.weight_packed' .*don't know"),
        (made.AWQ, changed(A, qweight=None), "'y.qzeros' .*whose codes"),
        (made.COMPRESSED, changed(C, weight_packed=None), "'y.weight_scale' .*whose codes"),
        (made.COMPRESSED, {"weight_shape": C["weight_shape"]}, "'y.weight_shape' .*whose codes"),
        (made.COMPRESSED, {"weight_g_idx": X.g_idx}, "'y.weight_g_idx' .*whose codes"),
        (made.COMPRESSED, {"weight_zero_point": C["weight_zero_point"]}, "'y.weight_zero_point' .*whose"),
        (
            made.COMPRESSED,
            {"weight": np.zeros((16, 64), np.int8), "weight_scale": np.ones((16, 1), np.float16)},
            r"'y.weight' is of a weight of 8 bits \(weight_scale F16 .*, weight I8 \(16, 64\)\), and only 4",
        ),
    ],
)  # fmt: skip
def test_parts_of_layers_are_no_plain_arrays(settings: Any, parts: Any, message: str, tmp_path: Path) -> None:
    whole = {"gptq": G, "awq": A, "compressed-tensors": C}.get((settings or {}).get("quant_method"))
    held = {"y": parts} if whole is None else {"y": parts, "x": whole}
    folder = write_folder(tmp_path / "model", named(held, PLAIN), settings)
    refuse(folder, ValueError, message)
    names = ["norm"] if whole is None else ["x", "norm"]
    assert list(dict(load_checkpoint(folder, names=names))) == names


@pytest.mark.parametrize(("settings", "parts"), [(made.GPTQ, G), (made.COMPRESSED, C), (None, G)])
def test_ordinary_tensors_beside_layers_are_plain(settings: Any, parts: Any, tmp_path: Path) -> None:
    one = np.ones(1, np.float32)
    plain = {
        "lm_head.weight": np.ones((4, 8), np.float16), "lm_head.weight_scale": one, "embed.scales": one,
        "attn.k_scale": one, "attn.v_scale": one, "x.input_scale": one, "attn.k_proj.output_scale": one,
        "x.weight": np.ones((4, 8), np.float16), "attn.bias": one, "ids.weight": np.ones(3, np.int8),
    }  # fmt: skip
    folder = write_folder(tmp_path / "model", named({"x": parts}, plain), settings)
    found = dict(load_checkpoint(folder))
    assert type(found.pop("x")) is Linear
    assert found.keys() == plain.keys()


def test_plain_weight_beside_a_part_that_is_not_stays_plain(tmp_path: Path) -> None:
    held = named({"x": G, "y": {"weight": np.ones((4, 8), np.float16), "g_idx": X.g_idx}}, {})
    folder = write_folder(tmp_path / "model", held, made.GPTQ)
    assert [name for name, _ in load_checkpoint(folder, names="y.weight")] == ["y.weight"]


def test_awq_layer_may_have_a_tensor_that_is_not_needed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", named({"x": A | {"g_idx": X.g_idx}}, {}), made.AWQ)
    assert load_checkpoint(folder).names == ["x", "x.g_idx"]


def of_dtypes(**tensors: tuple[str, int]) -> bytes:
    """A file with tensors of one element, each of a dtype and its bytes; "__" is a point."""
    header, at = {}, 0
    for name, (dtype, nbytes) in tensors.items():
        header[name.replace("__", ".")] = {"dtype": dtype, "shape": [1], "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


@pytest.mark.parametrize("dtype", [("F8_E4M3", 1), ("C64", 8)])
def test_dtype_that_is_not_readable_is_named_before_anything_is_read(
    dtype: tuple[str, int], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(of_dtypes(x=("F32", 4), y=dtype))
    with pytest.raises(ValueError, match=f"tensor 'y' has dtype {dtype[0]}; readable are .*leave 'y' out by"):
        load_checkpoint(path)
    assert [name for name, _ in load_checkpoint(path, names="x")] == ["x"]


@pytest.mark.parametrize("dtype", ["I8", "U8", "F8_E4M3", "F8_E5M2"])
def test_weights_of_8_bits_are_told_by_their_scales(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(of_dtypes(x__weight=(dtype, 1), x__weight_scale=("F32", 4), norm=("F32", 4)))
    refuse(path, ValueError, "tensor 'x.weight' is of a weight of 8 bits .*, and only 4 bits are served")
    assert load_checkpoint(path, names="norm").names == ["norm"]


def test_inspect_tells_of_tensors_that_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(folder, named({"x": changed(G, scales=None)}, PLAIN), made.GPTQ)
    assert main(["inspect", str(folder)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("load_checkpoint refuses it: ")
    assert "not x.scales" in last


@pytest.mark.parametrize("settings", [None, made.GPTQ])
def test_layer_without_a_name_is_called_by_none(settings: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", made.gptq(X), settings)
    path = tmp_path / "packed.safetensors"
    save(path, load_checkpoint(folder))
    for found in (dict(load_checkpoint(folder, names="")), dict(load(path))):
        w = dequantize(*(getattr(found[""], part) for part in ("b_packed", "scales", "zeros", "group_size")))
        np.testing.assert_array_equal(w.astype(np.float32), X.weights.astype(np.float16))


def test_two_layers_without_a_name_clash(tmp_path: Path) -> None:
    held = made.gptq(X) | named({"": made.gptq(layer(64, 16, seed=1))}, {})
    folder = write_folder(tmp_path / "model", held, made.GPTQ, 1)
    refuse(folder, ValueError, "has both a tensor '.qweight' and a tensor 'qweight'")


def test_shard_alone_is_checked_for_what_is_chosen(folder: Path) -> None:
    plain = {"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}
    write_folder(folder, named({"x": changed(G, g_idx=None)}, {}) | plain, made.GPTQ)
    for shard, other, message in (
        (
            FIRST,
            "b",
            r"has x.qweight, but not x.qzeros: it is not whole \(gptq, .*: pass the folder, of which",
        ),
        (SECOND, "a", "'x.qzeros' is .*: pass the folder, of which this is one shard, or leave it out"),
    ):
        refuse(folder / shard, ValueError, message)
        assert [name for name, _ in load_checkpoint(folder / shard, names=other)] == [other]


def test_shard_without_quantized_layers_is_plain(folder: Path) -> None:
    (folder / SECOND).write_bytes(made.safetensors_bytes(PLAIN))
    assert load_checkpoint(folder / SECOND).names == ["norm"]
    (folder / "model.safetensors").write_bytes(made.safetensors_bytes(PLAIN))
    refuse(folder / "model.safetensors", ValueError, r"has no tensor \*.qweight")
