"""Which layers, as whose arrays, with a bar or without: what was chosen is read, in its turn, and no more."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.checkpoint_kinds import DOWN, KINDS, assert_loaded, tensors
from helpers.checkpoints import write_folder

from cupy_w4a16 import load, load_checkpoint, save
from cupy_w4a16.formats import _safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    settings, wanted, write = KINDS["gptq"]
    return write_folder(tmp_path / "model", tensors(wanted, write), settings)


def test_only_what_is_asked_for_is_read_and_only_in_its_turn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = _safetensors.Safetensors.read
    monkeypatch.setattr(
        _safetensors.Safetensors, "read", lambda self, name: read.append(name) or whole(self, name)
    )
    checkpoint = load_checkpoint(folder, names=["*.down_proj", "model.norm.weight"])
    assert read == []
    for name, _ in checkpoint:
        assert read
        assert all(each.startswith(name) for each in read)
        read.clear()
    assert checkpoint.names == [DOWN, "model.norm.weight"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("model.layers.9.*", ValueError, r"nothing in .* matches 'model.layers.9.\*'; there are 'model"),
        (["*", "*.q_proj"], ValueError, r"matches '\*.q_proj'"),
        ([3], TypeError, "names holds 3"),
        (3, TypeError, "names is 3: pass a pattern"),
    ],
)
def test_pattern_that_matches_nothing_is_named(
    names: Any, error: type[Exception], message: str, folder: Path
) -> None:
    with pytest.raises(error, match=message):
        load_checkpoint(folder, names=names)


def test_name_with_brackets_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, {name: np.ones(1) for name in ("experts[0].up", "experts[1].up", "experts0.up", "a*")})
    for name in load_checkpoint(path).names:
        assert name in load_checkpoint(path, names=name).names
    assert load_checkpoint(path, names=["experts[[]*", "a*"]).names == [
        "experts[0].up",
        "experts[1].up",
        "a*",
    ]


def test_index_alone_is_a_path_too(folder: Path) -> None:
    assert_loaded(load_checkpoint(folder / "model.safetensors.index.json"), KINDS["gptq"][1])


def test_loop_can_be_run_again_and_left(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert next(iter(checkpoint))[0] == checkpoint.names[0]
    assert [name for name, _ in checkpoint] == checkpoint.names


@pytest.mark.parametrize(
    ("progress", "terminal", "shown"),
    [(True, False, True), (False, True, False), (None, True, True), (None, False, False)],
)
def test_bar_is_shown_where_it_is_wanted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, progress: bool | None, terminal: bool, shown: bool
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr", stream)
    list(load_checkpoint(folder, progress=progress))
    assert ("5/5" in stream.getvalue()) is shown
    assert bool(stream.getvalue()) is shown


@pytest.mark.parametrize("path", [None, b"model.safetensors", 3])
def test_path_that_names_no_file_is_named(path: Any) -> None:
    with pytest.raises(TypeError, match=r"path is .*: pass the name of a file"):
        load_checkpoint(path)


def test_library_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match=r"xp is .*pass the module numpy or cupy"):
        load_checkpoint(folder, xp=json)


@pytest.mark.gpu
def test_gpu_file_is_the_hosts(folder: Path, tmp_path: Path) -> None:
    import cupy

    for xp in (np, cupy):
        save(tmp_path / f"{xp.__name__}.safetensors", load_checkpoint(folder, xp=xp))
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("numpy", "cupy")]
    assert files[0] == files[1]
    assert len(load(tmp_path / "cupy.safetensors")) == 5
