"""Checkpoints drawn at random, damaged or hostile: layers or a clear error, and no crash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.bad_checkpoints import FIRST, INDEX, PLAIN, A, C, G, changed, edited_index
from helpers.checkpoints import named, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import Linear, load_checkpoint

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
