"""Checkpoints whose tensors make no layer: an error that names the layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.bad_checkpoints import PLAIN, A, C, G, changed, refuse
from helpers.checkpoints import layer, named, write_folder

from cupy_w4a16 import Linear, load_checkpoint

GPTQ_BY_LAYER = made.GPTQ | {"desc_act": True, "dynamic": {"+:y": {"group_size": 64, "sym": True}}}
# They agree on what else is theirs.
TWO_GROUPS = made.weights_scheme(actorder="group")
TWO_GROUPS["config_groups"]["b"] = made.weights_scheme(actorder="group", group_size=64)["config_groups"][
    "group_0"
]


@pytest.mark.parametrize(
    ("settings", "parts", "message"),
    [
        (made.GPTQ, changed(G, scales=None), "has x.qweight, but not x.scales: it is not whole"),
        (made.GPTQ, changed(G, qzeros=None, scales=None), "but not x.qzeros and x.scales"),
        (made.GPTQ | {"desc_act": True}, changed(G, g_idx=None), "but not x.g_idx: .*or unset desc_act in"),
        (GPTQ_BY_LAYER, changed(G, g_idx=None), "has x.qweight, but not x.g_idx"),
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
        *((made.weights_scheme(actorder=order), C, "but not x.weight_g_idx: .*or unset actorder in config")
          for order in ("group", "dynamic", True)),
        (TWO_GROUPS, changed(C, weight_zero_point=None), "but not x.weight_zero_point"),
        (TWO_GROUPS, C, "but not x.weight_g_idx"),
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
            "both a tensor 'w' and a quantized layer",
        ),
        ({"w": ("Q4_0", (32, 4), b"\x00\x7c" + data[2:])}, "infinite or NaN"),
    ):
        path.write_bytes(made.gguf_bytes(tensors))
        refuse(path, ValueError, message)
