"""What was saved comes back bit for bit, under its name, on NumPy and on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.stored import K, N, header_of, linear, same, weight

from cupy_w4a16 import Linear, PermutedWeight, QuantizedWeight, dequantize, load, pack, save, storage
from cupy_w4a16.formats import _safetensors
from cupy_w4a16.storage import Weights

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT_ZEROS = QuantizedWeight(*weight()[:2], np.full((7, N), 7.5, np.float32), 32)
WEIGHTS: dict[str, Callable[[], Any]] = {
    "symmetric": weight,
    "integer-zeros": lambda: weight(symmetric=False),
    "float-zeros": lambda: FLOAT_ZEROS,
    "one-group": lambda: weight(-1),
    "bfloat16": lambda: weight(64, dtype=BFLOAT16),
    "wide-groups-of-a-short-k": lambda: weight(256),
    "permuted": lambda: PermutedWeight(weight(), np.arange(K)[::-1].copy()),
    "linear": linear,
    "linear-options": lambda: linear(
        bias=np.ones(N, np.float16), alpha=0.1, activation="gelu_tanh", dtype="float32", pdl=False
    ),
    "linear-bfloat16": lambda: Linear(
        *weight(dtype=BFLOAT16), k=K, bias=np.ones(N, BFLOAT16), dtype=BFLOAT16
    ),
    "empty": lambda: QuantizedWeight(
        pack(np.zeros((32, 0), np.uint8)), np.zeros((1, 0), np.float16), None, 32
    ),
    "cut": lambda: linear().split_columns([64])[0],
    "cut-along-k": lambda: linear().split_rows([128])[1],
}
PLAIN = {
    "bool": np.array([True, False]), "bfloat16": np.arange(3).astype(BFLOAT16), "scalar": np.array(3.0),
    "int64": np.arange(4), "empty": np.zeros((0, 5), np.float32),
    "strided": np.arange(12).reshape(3, 4)[:, ::2],
}  # fmt: skip


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weight_comes_back_bit_for_bit(kind: str, path: Path) -> None:
    value = WEIGHTS[kind]()
    save(path, {"w": value})
    assert same(load(path)["w"], value)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_array_comes_back_bit_for_bit(kind: str, path: Path) -> None:
    save(path, {"x": PLAIN[kind]})
    assert same(load(path)["x"], np.ascontiguousarray(PLAIN[kind]).reshape(PLAIN[kind].shape))


def test_names_may_hold_dots_and_lie_inside_each_other(path: Path) -> None:
    values = {
        "a": weight(), "a.b": weight(64), "a.b.c": np.ones(3), "a.zeros": np.ones(4),
        "a.b_packed.x": weight(-1), "a.scales.bias": np.ones(5), "é \n": np.zeros(2),
    }  # fmt: skip
    save(path, values)
    found = load(path)
    assert set(found) == set(values)
    assert len(found) == len(values)
    assert "a.scales" not in found
    assert all(same(found[name], value) for name, value in values.items())


def test_the_safetensors_package_reads_the_same(saved: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors comes with the extra [test]")
    theirs = numpy.load_file(saved)
    up = load(saved)["up"]
    assert same(theirs["up.b_packed"], up.b_packed)
    assert same(theirs["up.zeros"], up.zeros)
    assert theirs.keys() == {*(f"up.{key}" for key in ("b_packed", "scales", "zeros")), "norm"} | {
        f"down.{key}" for key in ("b_packed", "scales")
    }


def test_tensors_start_at_multiples_of_their_itemsize(path: Path) -> None:
    save(path, {"odd": np.zeros(3, np.uint8), "w": weight(), "x": np.zeros(1, np.float64)})
    file = _safetensors.Safetensors(path)
    for entry in file.entries.values():
        assert entry.begin % {"F64": 8, "I32": 4, "F16": 2, "U8": 1}[entry.dtype] == 0


def test_header_that_finds_no_room_gets_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"n" * 1000: weight(), "m" * 3000: np.arange(5)}
    save(path, values)
    with_room = header_of(path.read_bytes())
    monkeypatch.setattr(storage, "_HEADER_BYTES", 8)
    save(path, values)
    assert header_of(path.read_bytes()) == with_room
    assert list(path.parent.iterdir()) == [path]
    found = load(path)
    assert all(same(found[name], value) for name, value in values.items())


def test_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    target, link = far / "model.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(Path("far") / target.name)
    for i in range(2):  # the target is missing first, then there
        save(link, {"x": np.full(3, i)})
        assert link.is_symlink()
        assert list(load(target)["x"]) == [i] * 3
    assert sorted(tmp_path.iterdir()) == [far, link]
    assert list(far.iterdir()) == [target]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_rights_are_what_the_umask_leaves(mask: int, path: Path) -> None:
    old = os.umask(mask)
    try:
        save(path, {"x": np.ones(3)})
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("letter", ["x", "é", "漢", "😀"])
def test_name_may_be_as_long_as_the_file_system_allows(letter: str, tmp_path: Path) -> None:
    path = tmp_path / (letter * (240 // len(letter.encode())) + ".safetensors")
    assert len(path.name.encode()) == 252
    save(path, {"x": np.ones(3)})
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.gpu
def test_gpu_weights_are_saved_and_loaded(path: Path) -> None:
    import cupy

    value = linear(bias=np.ones(N, np.float16))
    save(path, {"w": value.to_device(), "x": cupy.ones(3)})
    assert same(load(path)["w"], value)
    weights = Weights(path, cupy)
    assert same(weights["w"].to_numpy(), value)
    assert isinstance(weights["x"], cupy.ndarray)
    w = cupy.asnumpy(
        dequantize(*(weights["w"]._given()[key] for key in ("b_packed", "scales")), None, 32, k=K)
    )
    assert same(w, dequantize(*weight(), k=K))
