"""Every format's layers come as the weights that its definition gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.checkpoint_kinds import KINDS, PLAIN, assert_layer, assert_loaded, tensors
from helpers.checkpoints import BFLOAT16, Layer, layer, named, write_folder

from cupy_w4a16 import (
    Linear,
    PermutedWeight,
    QuantizedWeight,
    dequantize,
    load_checkpoint,
    quantize,
    save,
)
from cupy_w4a16.testing import assert_gemm_close


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_folder_gives_the_formats_weights(kind: str, shards: int, tmp_path: Path) -> None:
    settings, wanted, write = KINDS[kind]
    folder = write_folder(tmp_path / "model", tensors(wanted, write), settings, shards)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.format.startswith(settings["quant_method"])
    assert len(checkpoint) == len(checkpoint.names)
    assert_loaded(checkpoint, wanted)
    assert {"gptq-act-order", "compressed-tensors-act-order"}.isdisjoint({kind}) == all(
        value.perm is None for _, value in checkpoint if isinstance(value, Linear)
    )


def test_zeros_of_gptqmodels_v1_carry(tmp_path: Path) -> None:
    x = layer(64, 16)
    x.zeros[:, ::3] = 0
    parts = made.gptq(x, 0)
    stored = [(int(word) - 0x11111111) % 2**32 for word in parts["qzeros"].view(np.uint32).ravel()]
    parts["qzeros"] = np.array(stored, np.uint32).view(np.int32).reshape(parts["qzeros"].shape)
    settings = made.GPTQ | {"meta": {"quantizer": ["gptqmodel:2.1.0"]}}
    folder = write_folder(tmp_path / "model", named({"x": parts}, {}), settings, 1)
    assert_layer(dict(load_checkpoint(folder))["x"], x)


def test_unquantized_model_is_plain_arrays(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", PLAIN)
    assert load_checkpoint(folder).format == "not quantized"
    assert_loaded(load_checkpoint(folder), {})


def test_bias_of_another_dtype_is_rounded_to_that_of_the_scales(tmp_path: Path) -> None:
    x = layer(64, 16)
    for bias in (np.linspace(-3, 3, 16, dtype=np.float32), np.linspace(-3, 3, 16).astype(BFLOAT16)):
        parts = {**made.gptq(x), "bias": bias}
        folder = write_folder(tmp_path / "model", named({"x": parts}, {}), made.GPTQ, 1)
        found = dict(load_checkpoint(folder))["x"].bias
        np.testing.assert_array_equal(found, bias.astype(np.float32).astype(np.float16))
        assert found.dtype == np.float16


FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
GPTQMODEL = {"quant_method": "gptq", "bits": 4, "meta": {"quantizer": ["gptqmodel:7.7.0"]}}


@pytest.mark.parametrize(
    ("file", "names", "settings"),
    [
        ("auto_gptq", "*", None),
        ("autoawq", "*", None),
        ("compressed_tensors", "*", None),
        ("compressed_tensors_old", "*", None),
        ("gptqmodel", "v1_*", GPTQMODEL | {"checkpoint_format": "gptq"}),
        ("gptqmodel", "v2_*", GPTQMODEL | {"checkpoint_format": "gptq_v2"}),
    ],
)
def test_layers_of_the_real_packers_multiply_as_theirs(
    file: str, names: str, settings: Any, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((FIXTURES / f"{file}.safetensors").read_bytes())
    if settings:
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    found = dict(load_checkpoint(path, names=names))
    linears = {name: value for name, value in found.items() if isinstance(value, Linear)}
    assert linears
    for name, linear in linears.items():
        w = linear(np.eye(linear.in_features, dtype=linear.scales.dtype))
        np.testing.assert_array_equal(w, found[f"{name}.dequantized"])


def gguf_model() -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors to write, and what each name must give: a Layer, its weights, or an array."""
    up = layer(64, 40, seed=3, symmetric=True)
    down = layer(96, 16, seed=4)
    minima = -down.scales * down.zeros.astype(np.float16) / 2  # half steps: zeros that are no integers
    bias, norm = np.arange(40, dtype=np.float32), np.linspace(0, 1, 64, dtype=np.float32)
    embedding = np.arange(128).reshape(2, 64).astype(ml_dtypes.bfloat16)
    written = {
        "token_embd.weight": ("BF16", (64, 2), embedding.tobytes()),
        "blk.0.ffn_up.weight": ("Q4_0", (64, 40), made.q4_bytes(up)),
        "blk.0.ffn_down.weight": ("Q4_1", (96, 16), made.q4_bytes(down, minima)),
        "blk.0.ffn_up.bias": ("F32", (40,), bias.tobytes()),
        "output_norm.weight": ("F32", (64,), norm.tobytes()),
        "rope": ("F16", (2, 2), np.ones((2, 2), np.float16).tobytes()),
    }
    w = down.codes * np.repeat(down.scales.astype(np.float64), 32, axis=0)
    w += np.repeat(minima.astype(np.float16).astype(np.float64), 32, axis=0)
    wanted = {
        "token_embd.weight": embedding, "blk.0.ffn_up": Layer(up.codes, up.zeros, up.scales, up.g_idx,
        bias.astype(np.float16)), "blk.0.ffn_down": w, "output_norm.weight": norm,
        "rope": np.ones((2, 2), np.float16),
    }  # fmt: skip
    return written, wanted


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "model.gguf"
    path.write_bytes(made.gguf_bytes(gguf_model()[0]))
    return path


@pytest.mark.parametrize("as_folder", [False, True])
def test_gguf_gives_the_formats_weights(as_folder: bool, gguf_path: Path) -> None:
    checkpoint = load_checkpoint(gguf_path.parent if as_folder else gguf_path)
    wanted = gguf_model()[1]
    assert (checkpoint.names, checkpoint.format) == (
        ["token_embd.weight", "blk.0.ffn_up", "blk.0.ffn_down", "output_norm.weight", "rope"],
        "GGUF",
    )
    for name, value in checkpoint:
        if name == "blk.0.ffn_up":
            assert_layer(value, wanted[name])
        elif name == "blk.0.ffn_down":
            w = dequantize(value.b_packed, value.scales, value.zeros, 32, dtype="float32")
            np.testing.assert_allclose(w, wanted[name], rtol=0, atol=2.0**-22)  # weights below 1/2
            assert value.zeros.dtype == np.float32
        else:
            np.testing.assert_array_equal(value, wanted[name])
            assert (type(value), value.dtype) == (np.ndarray, wanted[name].dtype)


def test_other_types_of_gguf_are_refused_or_dequantized(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "model.gguf"
    block = np.array([0.5], np.float16).tobytes() + np.arange(-16, 16, dtype=np.int8).tobytes()
    up = layer(64, 40, symmetric=True)
    path.write_bytes(
        made.gguf_bytes(
            {
                "up.weight": ("Q4_0", (64, 40), made.q4_bytes(up)),
                "output.weight": ("Q8_0", (32, 1), block),
            }
        )
    )
    with pytest.raises(ValueError, match=r"'output.weight' is Q8_0: served are Q4_0, Q4_1 .*dequantize=True"):
        load_checkpoint(path)
    assert_layer(dict(load_checkpoint(path, names="up"))["up"], up)
    found = dict(load_checkpoint(path, dequantize=True))
    np.testing.assert_array_equal(found["output.weight"], np.arange(-16, 16, dtype=np.float32)[None] / 2)
    assert_layer(found["up"], up)


def test_own_file_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    weight = quantize(np.random.default_rng(0).standard_normal((64, 32)).astype(np.float16), 32)
    linear = Linear(*weight, k=64, bias=np.ones(32, np.float16), activation="gelu")
    permuted = PermutedWeight(weight, np.arange(64)[::-1].copy())
    save(path, {"a": weight, "b": permuted, "c": linear, "d": np.ones(3)})
    found = dict(load_checkpoint(path))
    assert [type(value) for value in found.values()] == [QuantizedWeight, PermutedWeight, Linear, np.ndarray]
    assert found["b"].perm.tolist() == list(range(63, -1, -1))
    assert repr(found["c"]) == repr(linear)
    np.testing.assert_array_equal(found["a"].b_packed, weight.b_packed)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [*KINDS, "gguf"])
def test_gpu_layers_multiply_as_their_definition_says(kind: str, tmp_path: Path) -> None:
    import cupy

    if kind == "gguf":
        pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
        path = tmp_path / "model.gguf"
        path.write_bytes(made.gguf_bytes(gguf_model()[0]))
    else:
        settings, wanted, write = KINDS[kind]
        path = write_folder(tmp_path / "model", tensors(wanted, write), settings)
    on_host = dict(load_checkpoint(path))
    rng = np.random.default_rng(0)
    for name, value in load_checkpoint(path, xp=cupy):
        host = on_host[name]
        if not isinstance(host, Linear):
            assert isinstance(value, cupy.ndarray)
            np.testing.assert_array_equal(cupy.asnumpy(value), host)
            continue
        for part in ("b_packed", "scales", "zeros", "bias", "perm"):
            x, y = getattr(value, part), getattr(host, part)
            assert (x is None) == (y is None)
            if y is not None:
                np.testing.assert_array_equal(cupy.asnumpy(x), y)
        a = rng.standard_normal((5, host.in_features)).astype(host.scales.dtype)
        ordered = a if host.perm is None else np.ascontiguousarray(a[:, host.perm])
        weight = host.b_packed, host.scales, host.zeros, host.group_size
        assert_gemm_close(cupy.asnumpy(value(cupy.asarray(a))), ordered, *weight, bias=host.bias)
        if kind != "gguf":
            identity = np.eye(host.in_features, dtype=host.scales.dtype)
            options = {"k": value.in_features, "perm": value.perm}
            plain = Linear(value.b_packed, value.scales, value.zeros, value.group_size, **options)
            w = cupy.asnumpy(plain(cupy.asarray(identity)))
            np.testing.assert_array_equal(w, wanted[name].weights.astype(host.scales.dtype))
