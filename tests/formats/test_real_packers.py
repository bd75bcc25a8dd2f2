"""Layers that the formats' own packers wrote (tests/fixtures), against the weights that these give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest

from cupy_w4a16 import (
    PermutedWeight,
    QuantizedWeight,
    dequantize,
    from_awq,
    from_compressed_tensors,
    from_gguf,
    from_gptq,
    gemm,
    open_gguf,
    pack,
)
from cupy_w4a16.formats._safetensors import Safetensors
from cupy_w4a16.testing import assert_gemm_close

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
READERS = {
    "auto_gptq": from_gptq,
    "autoawq": from_awq,
    "compressed_tensors": from_compressed_tensors,
    "compressed_tensors_old": from_compressed_tensors,
    "gptqmodel": from_gptq,
}
# File, layer, and what the configuration of its checkpoint says.
LAYERS: list[tuple[str, str, dict[str, Any]]] = [
    ("auto_gptq", "symmetric", {"group_size": 128, "symmetric": True}),
    ("auto_gptq", "bfloat16", {"group_size": 32}),
    ("auto_gptq", "act_order", {"group_size": 64}),
    ("auto_gptq", "zero_of_0", {"group_size": -1}),
    ("gptqmodel", "v1_symmetric_act_order", {"group_size": 64, "symmetric": True}),
    ("gptqmodel", "v1_zero_of_0", {"group_size": 128, "carry": True}),
    ("gptqmodel", "v2_act_order", {"group_size": 32, "zero_offset": 0}),
    ("gptqmodel", "v2_one_group", {"group_size": -1, "zero_offset": 0}),
    ("autoawq", "groups_of_32", {"group_size": 32}),
    ("autoawq", "groups_of_128", {"group_size": 128}),
    ("autoawq", "one_group", {"group_size": 96}),
    ("compressed_tensors", "symmetric", {"group_size": 128, "symmetric": True}),
    ("compressed_tensors", "asymmetric", {"group_size": 32}),
    ("compressed_tensors", "channel", {"group_size": -1}),
    ("compressed_tensors_old", "asymmetric", {"group_size": 64}),
    ("compressed_tensors_old", "act_order", {"group_size": 32}),
    ("compressed_tensors_old", "symmetric_act_order", {"group_size": 64, "symmetric": True}),
]
NAMES = [f"{file}-{layer}" for file, layer, _ in LAYERS]
HQQ = {"float16": 64, "bfloat16": 32}  # layer: group size
GGUF = ("Q4_0", "Q4_1")
# Half the spacing of numbers above 1, and of the smallest numbers, by dtype of HQQ's layers.
HALF_SPACING = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-134)}
U32 = 2.0**-24  # the former of float32


def tensors_of(file: str, layer: str) -> dict[str, Any]:
    """The tensors of one layer, under the packer's names, and its own `dequantized` weights (k, n)."""
    opened = Safetensors(FIXTURES / f"{file}.safetensors")
    prefix = f"{layer}."
    return {
        name.removeprefix(prefix): opened.read(name) for name in opened.entries if name.startswith(prefix)
    }


def weight_of(file: str, layer: str, config: dict[str, Any], move: Any = np.asarray) -> tuple[Any, Any, Any]:
    """The layer as our reader gives it, its permutation or None, and the packer's weights."""
    tensors = tensors_of(file, layer)
    expected = tensors.pop("dequantized")
    read = READERS[file](**{name: move(tensor) for name, tensor in tensors.items()}, **config)
    if isinstance(read, PermutedWeight):
        return read.weight, cupy.asnumpy(read.perm), expected
    return read, None, expected


def hqq_weight(layer: str, move: Any = np.asarray) -> tuple[QuantizedWeight, dict[str, Any]]:
    """A layer of HQQ (axis 1) as plain arrays: a row is a group, those of the first half in high nibbles."""
    tensors = tensors_of("hqq", layer)
    k, n = tensors["dequantized"].shape
    codes = np.concatenate([tensors["W_q"] >> 4, tensors["W_q"] & 15]).reshape(n, k).T
    scales, zeros = (np.ascontiguousarray(tensors[name].reshape(n, -1).T) for name in ("scale", "zero"))
    return QuantizedWeight(pack(move(codes)), move(scales), move(zeros), HQQ[layer]), tensors


def in_order(w: Any, perm: Any) -> Any:
    """Rows of a permuted weight at their places."""
    if perm is None:
        return w
    ordered = np.empty_like(w)
    ordered[perm] = w
    return ordered


def same_bits(found: Any, wanted: Any) -> None:
    assert found.dtype == wanted.dtype
    integer = np.dtype(f"uint{8 * wanted.itemsize}")
    np.testing.assert_array_equal(*(np.ascontiguousarray(x).view(integer) for x in (found, wanted)))


def test_no_layer_of_the_fixtures_is_forgotten() -> None:
    found = {
        (path.stem, name.split(".")[0])
        for path in FIXTURES.glob("*.safetensors")
        for name in Safetensors(path).entries
    }
    read_otherwise = {("hqq", layer) for layer in HQQ} | {("gguf", layer) for layer in GGUF}
    assert found == {(file, layer) for file, layer, _ in LAYERS} | read_otherwise


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize(("file", "layer", "config"), LAYERS, ids=NAMES)
def test_weights_are_the_packers_bit_for_bit(
    file: str, layer: str, config: dict[str, Any], configured: bool
) -> None:
    if not configured:  # what the tensors tell by themselves
        config = {name: value for name, value in config.items() if name in ("zero_offset", "carry")}
    weight, perm, expected = weight_of(file, layer, config)
    same_bits(in_order(dequantize(*weight, k=expected.shape[0]), perm), expected)


@pytest.mark.parametrize(("file", "layer", "config"), LAYERS, ids=NAMES)
def test_layers_packed_in_act_order_are_permuted_and_symmetric_ones_have_no_zeros(
    file: str, layer: str, config: dict[str, Any]
) -> None:
    weight, perm, _ = weight_of(file, layer, config)
    assert (perm is not None) == layer.endswith("act_order")
    assert (weight.zeros is None) == ("symmetric" in layer.split("_"))


@pytest.mark.parametrize(
    ("file", "layer", "config"),
    [
        ("auto_gptq", "bfloat16", {"zero_offset": 0}),
        ("auto_gptq", "zero_of_0", {"carry": True}),
        ("gptqmodel", "v1_zero_of_0", {"carry": False}),
        ("gptqmodel", "v1_zero_of_0", {"zero_offset": 0}),
        ("gptqmodel", "v2_one_group", {"zero_offset": 1}),
    ],
)
def test_a_wrong_reading_of_zeros_would_be_seen(file: str, layer: str, config: dict[str, Any]) -> None:
    weight, perm, expected = weight_of(file, layer, config)
    assert (in_order(dequantize(*weight), perm) != expected).any()


@pytest.mark.parametrize("layer", HQQ)
def test_weights_of_hqq_in_float32_are_its_own_bit_for_bit(layer: str) -> None:
    weight, tensors = hqq_weight(layer)
    same_bits(dequantize(*weight, dtype="float32"), tensors["dequantized_float32"])


@pytest.mark.parametrize("layer", HQQ)
def test_weights_of_hqq_in_16_bits_differ_by_its_two_roundings_at_most(layer: str) -> None:
    """HQQ rounds code - zero, and the product with the scale; float32 holds both differences from that."""
    weight, tensors = hqq_weight(layer)
    u, tiny = HALF_SPACING[layer]
    exact = dequantize(*weight, dtype="float32").astype(np.float64)
    error = abs(tensors["dequantized"].astype(np.float64) - exact)
    assert (error <= abs(exact) * ((1 + u) ** 2 - 1 + 3 * U32) + tiny).all()


def gguf_weight(layer: str, move: Any = np.asarray) -> tuple[QuantizedWeight, dict[str, Any]]:
    tensors = tensors_of("gguf", layer)
    return from_gguf(move(tensors["blocks"]), layer, tensors["dequantized"].shape), tensors


@pytest.mark.parametrize("layer", GGUF)
def test_a_written_gguf_file_holds_the_same_weights(layer: str) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    read = from_gguf(open_gguf(FIXTURES / "gguf.gguf")[f"{layer}.weight"])
    for found, wanted in zip(read, gguf_weight(layer)[0], strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_q4_0_of_gguf_is_exact() -> None:
    weight, tensors = gguf_weight("Q4_0")
    # A zero of a negative scale is -0 there.
    same_bits(dequantize(*weight, dtype="float32"), tensors["dequantized"] + np.float32(0))


def test_q4_1_of_gguf_is_within_its_roundings_and_ours() -> None:
    """Ours are three, of 2**-24 (|m| + 2 |w|) together; gguf rounds code * d + m once, by 2**-24 |w|."""
    weight, tensors = gguf_weight("Q4_1")
    w = dequantize(*weight, dtype="float32").astype(np.float64)
    expected = tensors["dequantized"].astype(np.float64)
    blocks = tensors["blocks"].reshape(expected.shape[1], -1, 20)
    m = np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16)[:, :, 0].T.astype(np.float64)
    bound = U32 * (abs(np.repeat(m, 32, axis=0)) + 3 * abs(expected)) * (1 + 8 * U32)
    assert (abs(w - expected) <= bound).all()
    assert (w[32:64, 2] == np.float16(0.03)).all()  # the block without steps


def product(weight: QuantizedWeight, k: int, perm: Any = None) -> Any:
    """Identity and random activations times a weight on the GPU, checked; the identity's rows."""
    dtype = ml_dtypes.bfloat16 if weight.scales.dtype == ml_dtypes.bfloat16 else np.float16
    a = np.concatenate([np.eye(k), np.random.default_rng(0).standard_normal((5, k))]).astype(dtype)
    if perm is not None:
        a = a[:, perm]
    a = cupy.asarray(a)
    c = gemm(a, *weight)
    assert_gemm_close(c, a, *weight)
    return cupy.asnumpy(c)[:k]


@pytest.mark.gpu
@pytest.mark.parametrize(("file", "layer", "config"), LAYERS, ids=NAMES)
def test_products_on_the_gpu_are_of_the_packers_weights(
    file: str, layer: str, config: dict[str, Any]
) -> None:
    weight, perm, expected = weight_of(file, layer, config, cupy.asarray)
    same_bits(product(weight, expected.shape[0], perm), expected)


@pytest.mark.gpu
def test_products_on_the_gpu_are_of_ggufs_exact_weights() -> None:
    weight, tensors = gguf_weight("Q4_0", cupy.asarray)
    expected = tensors["dequantized"]
    same_bits(product(weight, expected.shape[0]), (expected + np.float32(0)).astype(np.float16))


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "layer"), [*(("hqq", layer) for layer in HQQ), ("gguf", "Q4_1")])
def test_products_on_the_gpu_take_float_zeros(kind: str, layer: str) -> None:
    """`gemm` is within 2 ulp of weights rounded once; an ulp is 2 u |w| at most, or 2 `tiny`."""
    weight, tensors = hqq_weight(layer, cupy.asarray) if kind == "hqq" else gguf_weight(layer, cupy.asarray)
    expected = tensors["dequantized_float32" if kind == "hqq" else "dequantized"].astype(np.float64)
    found = product(weight, expected.shape[0]).astype(np.float64)
    u, tiny = HALF_SPACING["bfloat16" if layer == "bfloat16" else "float16"]
    # For Q4_1, the float32 weights themselves are another 2**-24 (|m| + 3 |w|) apart: m is below 1 here.
    slack = 4 * U32 if kind == "gguf" else 0
    assert (abs(found - expected) <= abs(expected) * 5 * u * (1 + 4 * u) + 5 * tiny + slack).all()
