"""Checkpoints of every format and kind of settings, and what must come out of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy_w4a16 import Checkpoint, Linear, dequantize
from helpers import checkpoints as made
from helpers.checkpoints import BFLOAT16, Layer, layer, named

PLAIN = {
    "model.embed_tokens.weight": np.arange(96, dtype=np.float16).reshape(12, 8),
    "model.norm.weight": np.ones(8, np.float32),
    "lm_head.bias": np.arange(3).astype(BFLOAT16),
}
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"


def layers(**options: Any) -> dict[str, Layer]:
    return {UP: layer(96, 72, seed=1, bias=True, **options), DOWN: layer(160, 64, seed=2, **options)}


def parts_of(x: Layer, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return parts if x.bias is None else {**parts, "bias": x.bias}


def tensors(found: dict[str, Layer], write: Any) -> dict[str, np.ndarray]:
    return named({name: parts_of(x, write(x)) for name, x in found.items()}, PLAIN)


#: Settings, the layers, and the function that packs one.
KINDS: dict[str, tuple[Any, dict[str, Layer], Any]] = {
    "gptq": (made.GPTQ, layers(), made.gptq),
    "gptq-v2": (made.GPTQ | {"checkpoint_format": "gptq_v2"}, layers(), lambda x: made.gptq(x, 0)),
    "gptq-symmetric": (made.GPTQ | {"sym": True}, layers(symmetric=True), made.gptq),
    "gptq-labelled-v1-with-zeros-of-v2": (
        made.GPTQ | {"sym": True},
        layers(symmetric=True),
        lambda x: made.gptq(x, 0),
    ),
    "gptq-act-order": (made.GPTQ | {"desc_act": True}, layers(act_order=True), made.gptq),
    "gptq-of-settings-by-layer": (
        made.GPTQ | {"group_size": 128, "sym": True, "dynamic": {"+:.*": {"group_size": 32, "sym": False}}},
        layers(),
        made.gptq,
    ),
    "gptq-bfloat16": (made.GPTQ, layers(dtype=BFLOAT16), made.gptq),
    "awq": (made.AWQ, layers(), made.awq),
    "awq-in-capitals": (made.AWQ | {"version": "GEMM"}, layers(symmetric=True), made.awq),
    "compressed-tensors": (made.COMPRESSED, layers(dtype=BFLOAT16), made.compressed),
    "compressed-tensors-symmetric": (
        made.weights_scheme(symmetric=True),
        layers(symmetric=True),
        made.compressed,
    ),
    "compressed-tensors-channel": (
        made.weights_scheme(symmetric=True, strategy="channel", group_size=None),
        {UP: layer(96, 72, -1, seed=1, symmetric=True, bias=True)},
        made.compressed,
    ),
    "compressed-tensors-act-order": (
        made.weights_scheme(actorder="group"),
        layers(act_order=True),
        made.compressed,
    ),
}


def assert_layer(found: Any, wanted: Layer) -> None:
    """The Linear's weights, put back into their order, are the definition's, bit for bit."""
    assert isinstance(found, Linear)
    weight = found.b_packed, found.scales, found.zeros, found.group_size
    w = dequantize(*weight, k=found.in_features, dtype="float32")
    if found.perm is not None:
        w[found.perm] = w.copy()
    np.testing.assert_array_equal(w, wanted.weights)
    assert found.scales.dtype == wanted.scales.dtype
    assert (found.bias is None) == (wanted.bias is None)
    if wanted.bias is not None:
        np.testing.assert_array_equal(found.bias, wanted.bias)


def assert_loaded(checkpoint: Checkpoint, wanted: dict[str, Layer]) -> None:
    found = dict(checkpoint)
    assert found.keys() == wanted.keys() | PLAIN.keys()
    for name, x in wanted.items():
        assert_layer(found[name], x)
    for name, x in PLAIN.items():
        assert (type(found[name]), found[name].dtype) == (np.ndarray, x.dtype)
        np.testing.assert_array_equal(found[name], x)
