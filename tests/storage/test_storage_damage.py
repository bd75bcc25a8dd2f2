"""Headers whose words changed: weights that are weights, or an error that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.stored import N, file_of, header_of, linear, same
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import Linear, PermutedWeight, QuantizedWeight, load, save
from cupy_w4a16.__main__ import main

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def edited(saved: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    header, body = header_of(saved.read_bytes())
    described = json.loads(header["__metadata__"]["weights"])
    change(header, described)
    header["__metadata__"]["weights"] = json.dumps(described)
    saved.write_bytes(file_of(header, body))


@pytest.mark.parametrize(
    "change",
    [
        lambda header, described: described["up"]["arrays"].remove("scales"),
        lambda header, described: header["up.scales"].update(dtype="BF16", shape=[N, 7]),
        lambda header, described: header["up.b_packed"].update(dtype="F32"),
        lambda header, described: described["up"].update(group_size=64),
        lambda header, described: described["up"].update(group_size="32"),
        lambda header, described: described["up"].update(group_size=None),
        lambda header, described: described["up"].update(surprise=1),
        lambda header, described: described["up"].pop("group_size"),
        lambda header, described: described["up"].update(kind="permuted"),
    ],
)
def test_arrays_that_make_no_weight_are_refused_at_look_up(change: Any, saved: Path) -> None:
    edited(saved, change)
    weights = load(saved)
    assert same(weights["norm"], np.ones(N, np.float16))
    with pytest.raises(ValueError, match="weight 'up' is damaged"):
        _ = weights["up"]


@pytest.mark.parametrize(
    "change",
    [
        lambda header, described: described["up"].update(kind="os.system"),
        lambda header, described: described["up"].pop("kind"),
        lambda header, described: described.update(up=[]),
        lambda header, described: described.update(norm={"kind": "weight"}),
        lambda header, described: described.update(norm={"kind": "weight", "arrays": []}),
        lambda header, described: described["up"].update(arrays=3),
        lambda header, described: described["up"].update(arrays=[3]),
        lambda header, described: header.update({"up.other": header.pop("up.scales")}),
        lambda header, described: header.update({"other": header.pop("up.scales")}),
    ],
)
def test_metadata_that_describe_no_weights_are_refused(change: Any, saved: Path) -> None:
    edited(saved, change)
    with pytest.raises(ValueError, match=str(saved)):
        load(saved)


MADE: dict[str, bytes] = {}


def small_file(folder: Path) -> bytes:
    if not MADE:
        save(folder / "small.safetensors", {"w": linear(), "x": np.ones(2, BFLOAT16)})
        # Without the spaces that fill the header up, so that damage hits what matters.
        MADE["data"] = file_of(*header_of((folder / "small.safetensors").read_bytes()))
    return MADE["data"]


def everything(path: Path) -> dict[str, Any]:
    return dict(load(path))


def visit(path: Path) -> None:
    try:
        for value in everything(path).values():
            assert isinstance(value, (np.ndarray, Linear, QuantizedWeight, PermutedWeight))
    except ValueError as error:
        told = str(path) in str(error)
    else:
        told = True
    assert told
    assert main(["inspect", str(path)]) in (0, 2)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_header_bytes_give_weights_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    damaged = bytearray(small_file(folder))
    header_end = 8 + int.from_bytes(damaged[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header_end - 1))
        damaged[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789"[]{},:-.e'))
    path = folder / "damaged.safetensors"
    path.write_bytes(damaged)
    visit(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["U8", "F4", "I32", "", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
OPTIONS = st.dictionaries(
    st.sampled_from(["kind", "group_size", "k", "alpha", "dtype", "activation", "pdl"]), JSON
)


@settings(deadline=None, max_examples=200)
@given(JSON, OPTIONS, st.sampled_from(["w", "w.scales", "w.zeros", "x"]))
def test_drawn_headers_give_weights_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, entry: Any, options: Any, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    header, body = header_of(small_file(folder))
    described = json.loads(header["__metadata__"]["weights"])
    described["w"] |= options
    header["__metadata__"]["weights"] = json.dumps(described)
    path = folder / "drawn.safetensors"
    path.write_bytes(file_of(header, body))
    visit(path)
    header[name] = entry
    path.write_bytes(file_of(header, body))
    visit(path)
