"""Checkpoints whose settings are damaged or not served: an error that names what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import checkpoints as made
from helpers.bad_checkpoints import INDEX, PLAIN, X, changed, refuse
from helpers.checkpoints import named, write_folder

from cupy_w4a16.checkpoint import files as checkpoint_files

OWN_FORMAT = made.weights_scheme()  # of the group, where the whole says another
OWN_FORMAT["config_groups"]["group_0"]["format"] = "marlin-24"


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
        *(
            (changed(made.AWQ, version=None) | {key: "gemv"}, "version is 'gemv'")
            for key in ("format", "checkpoint_format")
        ),
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
        (made.weights_scheme(actorder="rows"), "actorder is 'rows': served are 'group', 'weight' and null"),
        (made.weights_scheme(actorder=[]), r"actorder is \[\]"),
        (OWN_FORMAT, r"config_groups\['group_0'\]: format is 'marlin-24': served is 'pack-quantized'"),
        (made.GPTQ | {"desc_act": 1}, "desc_act is 1: true or false"),
        (made.GPTQ | {"dynamic": "x"}, "dynamic is 'x': an object is needed"),
        ([], "quantization_config is a list, not an object"),
    ],
)
def test_quantization_that_is_not_served_is_named(settings: Any, message: str, folder: Path) -> None:
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
