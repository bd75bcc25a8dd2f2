"""What cannot be saved leaves no file and no half of one; arguments that `load` does not take are named."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stored import K, header_of, weight

from cupy_w4a16 import PermutedWeight, load, save, storage


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ({"up": weight(), "up.scales": np.ones(3)}, ValueError, "'up' and 'up.scales' both need"),
        ({"up.scales": np.ones(3), "up": weight()}, ValueError, "'up.scales' and 'up' both need"),
        ({3: np.ones(3)}, TypeError, "the name 3"),
        ([("up", np.ones(3)), ("up", weight())], ValueError, "two weights have the name 'up'"),
        ([("up", weight()), ("up.scales", np.ones(3))], ValueError, "'up' and 'up.scales' both need"),
        (["up"], TypeError, "weights yields a str: pass a mapping, or pairs"),
        ({"__metadata__": np.ones(3)}, ValueError, "__metadata__"),
        ({"\ud800": np.ones(3)}, ValueError, "rename it"),
        ({"up": "text"}, TypeError, "'up' is a str"),
        (weight(), TypeError, "weights is a cupy_w4a16.QuantizedWeight: pass a mapping"),
        (5, TypeError, "weights is a int: pass a mapping"),
        ({"up": np.ones(3, object)}, TypeError, "up is object"),
        ({"up": np.ones(3, np.complex64)}, TypeError, "up is complex64"),
        ({"up": weight()._replace(scales=np.ones((3, 3), np.float16))}, ValueError, "weight 'up': scales"),
        ({"up": weight()._replace(group_size=64)}, ValueError, "weight 'up': group_size is 64"),
        ({"up": PermutedWeight(weight(), np.zeros(K))}, TypeError, "weight 'up': perm is float64"),
        ({"up": PermutedWeight(weight(), np.arange(3))}, ValueError, "weight 'up': perm is of shape (3,)"),
        ({"up": PermutedWeight(np.ones(3), np.arange(3))}, TypeError, "weight 'up' is of a numpy.ndarray"),
        (
            {"up": PermutedWeight(weight(), np.zeros(K, int))},
            ValueError,
            "weight 'up': perm holds 0 200 times",
        ),
        ({"up": PermutedWeight(weight(), np.ones((K, 1), int))}, ValueError, "perm is of shape (200, 1)"),
        ({"up": PermutedWeight(weight(), list(range(K)))}, TypeError, "weight 'up': perm"),
    ],
)
def test_what_cannot_be_saved_leaves_no_file(
    weights: Any, error: type[Exception], said: str, path: Path
) -> None:
    with pytest.raises(error) as raised:
        save(path, weights)
    assert said in str(raised.value)
    assert list(path.parent.iterdir()) == []


def test_file_whose_perm_is_none_is_refused_at_look_up(path: Path) -> None:
    save(path, {"up": PermutedWeight(weight(), np.arange(K))})
    data = bytearray(path.read_bytes())
    header, body = header_of(bytes(data))
    begin, _ = header["up.perm"]["data_offsets"]
    data[len(data) - len(body) + begin] = 199  # which is there once already
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path}: weight 'up' is damaged: .*perm holds 199 2 times"):
        _ = load(path)["up"]


def test_failed_write_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(saved, {"x": np.ones(3)})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What a full disk does, done by the system: writing past `size` bytes fails, and again when closing."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize(
    ("count", "name_length", "most_bytes"),
    [
        (8, 1, 4110),  # fits the buffer, and fails when that is written
        (1 << 20, 1, 4110),
        (8, 10_000, 4500),  # the header needs more room, and the copy that has it fails
    ],
)
def test_disk_that_fills_up_leaves_the_old_file_and_no_other(
    count: int, name_length: int, most_bytes: int, saved: Path
) -> None:
    before = saved.read_bytes()
    with pytest.raises(OSError) as raised, files_of_at_most(most_bytes):
        save(saved, {"n" * name_length: np.ones(count)})
    assert str(saved) in str(raised.value)
    assert "File too large" in str(raised.value)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("kind", ["pipe", "loop", "link-to-a-pipe"])
def test_what_is_no_regular_file_is_not_replaced(kind: str, path: Path) -> None:
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    if kind == "pipe":
        path = pipe
    else:
        path.symlink_to({"loop": path, "link-to-a-pipe": pipe}[kind])
    before = sorted(path.parent.iterdir())
    with pytest.raises(FileExistsError, match=f"{path} can't be written: it is no regular file"):
        save(path, {"x": np.ones(3)})
    assert sorted(path.parent.iterdir()) == before
    assert pipe.is_fifo()
    assert path.is_symlink() == (kind != "pipe")


@pytest.mark.parametrize("name", [None, b"model.safetensors", 5, ["model.safetensors"]])
def test_path_that_names_no_file_is_named(name: Any) -> None:
    with pytest.raises(TypeError, match=r"path is .*: pass the name of a file"):
        save(name, {"x": np.ones(3)})
    with pytest.raises(TypeError, match=r"path is .*: pass the name of a file"):
        load(name)


def test_null_character_in_a_path_is_named(path: Path) -> None:
    for use in (load, lambda name: save(name, {})):
        with pytest.raises(ValueError, match=r"path is .*null character"):
            use(f"{path}\0")


def test_full_disk_while_the_header_finds_room_leaves_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_HEADER_BYTES", 8)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"n" * 1000: weight()})
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("place", ["missing/model.safetensors", "file/model.safetensors", "folder"])
def test_place_that_cannot_be_written_is_an_os_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=place.split("/")[0]):
        save(tmp_path / place, {"x": np.ones(3)})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_folder_without_write_permission_is_an_os_error(saved: Path) -> None:
    saved.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            save(saved, {"x": np.ones(3)})
    finally:
        saved.parent.chmod(0o700)


def test_library_that_is_none_is_refused(saved: Path) -> None:
    with pytest.raises(TypeError, match=r"xp is 'cupy': pass the module numpy or cupy"):
        load(saved, xp="cupy")


def test_a_folder_is_told_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="load_checkpoint reads model folders"):
        load(tmp_path)
