"""Files that are cut, changed or something else are refused by name; none is run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stored import file_of, header_of

from cupy_w4a16 import PACKED_LAYOUT_VERSION, load
from cupy_w4a16.__main__ import main
from cupy_w4a16.formats import _safetensors

ONE = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
ABSURD = {
    "length-past-the-end": (1 << 62).to_bytes(8, "little") + b"{}",
    "no-json": file_of(b"{nothing", b""),
    "no-object": file_of([], b""),
    "no-utf-8": file_of(b'{"\xff": 1}', b""),
    "nested": file_of(b"[" * 200_000, b""),
    "long-number": file_of(b'{"x": ' + b"1" * 10_000 + b"}", b""),
    "twice": file_of(b'{"x": %s, "x": %s}' % ((json.dumps(ONE).encode(),) * 2), bytes(4)),
    "metadata-no-texts": file_of({"__metadata__": {"a": 1}}, b""),
    "no-entry": file_of({"x": 3}, b""),
    "no-dtype": file_of({"x": {**ONE, "dtype": 1}}, bytes(4)),
    "terabytes": file_of({"x": {**ONE, "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}, bytes(4)),
    "shape-too-large": file_of({"x": {**ONE, "shape": [1 << 62, 1 << 62]}}, bytes(4)),
    "shape-of-a-size-past-64-bits": file_of(
        {"x": {**ONE, "shape": [0, 1 << 64], "data_offsets": [0, 0]}}, b""
    ),
    "shape-negative": file_of({"x": {**ONE, "shape": [-2, -2]}}, bytes(4)),
    "shape-a-float": file_of({"x": {**ONE, "shape": [4.0]}}, bytes(4)),
    "shape-a-bool": file_of({"x": {**ONE, "shape": [4, True]}}, bytes(4)),
    "backwards": file_of({"x": {**ONE, "data_offsets": [4, 0]}}, bytes(4)),
    "before-the-start": file_of({"x": {**ONE, "data_offsets": [-4, 0]}}, bytes(4)),
    "three-offsets": file_of({"x": {**ONE, "data_offsets": [0, 4, 4]}}, bytes(4)),
    "gap": file_of({"x": {**ONE, "data_offsets": [4, 8]}}, bytes(8)),
    "overlap": file_of({"x": ONE, "y": {**ONE, "data_offsets": [2, 6]}}, bytes(6)),
}


def test_header_over_the_limit_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    length = int.from_bytes(saved.read_bytes()[:8], "little")
    monkeypatch.setattr(_safetensors, "MAX_HEADER_BYTES", length)
    load(saved)
    monkeypatch.setattr(_safetensors, "MAX_HEADER_BYTES", length - 1)
    with pytest.raises(ValueError, match=f"claims {length} bytes, where .* {length - 1} are allowed"):
        load(saved)


def test_many_names_of_which_the_last_comes_twice_are_no_long_work(path: Path) -> None:
    # Counting each name among all of them took a minute for 60,000.
    names = [b'"k%07d":0' % i for i in range(300_000)]
    path.write_bytes(file_of(b"{%s,%s}" % (b",".join(names), names[-1]), b""))
    with pytest.raises(ValueError, match=r"model\.safetensors is .*: it has 'k0299999' twice"):
        load(path)


def test_many_axes_are_neither_multiplied_nor_printed(path: Path) -> None:
    sizes = b",".join([b"999999999999999999"] * 600_000)
    path.write_bytes(file_of(b'{"x":{"dtype":"U8","data_offsets":[0,0],"shape":[%s]}}' % sizes, b""))
    with pytest.raises(ValueError, match=r"tensor 'x' has 600000 axes, where 64 are allowed$"):
        load(path)


def test_file_cut_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    header, body = header_of(whole)
    start = len(whole) - len(body)
    ends = {start + at for one in header.values() if "data_offsets" in one for at in one["data_offsets"]}
    cuts = (
        {0, 1, 7, 8, 9, start // 2, start - 1, start, start + 1, len(whole) - 1}
        | ends
        | {e - 1 for e in ends}
    )
    for length in sorted(cuts - {len(whole)}):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
            load(saved)
    saved.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="longer"):
        load(saved)


def test_file_that_shrinks_or_changes_after_its_header_was_read_is_noticed(saved: Path) -> None:
    weights = load(saved)
    os.truncate(saved, saved.stat().st_size - 100)
    with pytest.raises(ValueError, match="changed"):
        _ = weights["up"]


@pytest.mark.parametrize("version", ["0", str(PACKED_LAYOUT_VERSION + 1), "1.0", "", None])
def test_other_layout_version_is_refused(version: str | None, saved: Path) -> None:
    header, body = header_of(saved.read_bytes())
    header["__metadata__"]["packed_layout_version"] = version
    if version is None:
        del header["__metadata__"]["packed_layout_version"]
    saved.write_bytes(file_of(header, body))
    with pytest.raises(ValueError, match=f"packed layout version {version!r}, this package reads"):
        load(saved)


def test_pickle_is_refused_without_being_run(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.parent / "trapped"),)

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"w": Trap()}, protocol=protocol))
        with pytest.raises(ValueError, match="a pickle, which runs code"):
            load(path)
    np.savez(path.open("wb"), x=np.ones(3))
    with pytest.raises(ValueError, match="a zip archive"):
        load(path)
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ValueError, match="open_gguf"):
        load(path)
    assert not (path.parent / "trapped").exists()


def test_file_of_the_safetensors_package_is_shown_but_not_loaded(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors comes with the extra [test]")
    numpy.save_file({"x": np.arange(6, dtype=np.int16).reshape(2, 3)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"save\(\) did not write"):
        load(path)
    assert _safetensors.Safetensors(path).read("x").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "x     (2, 3)  I16       12\n" in printed
    assert "1 tensors, not of cupy_w4a16, 12 bytes" in printed


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_header_is_refused(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(ABSURD[kind])
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file: ."):
        load(path)
    assert main(["inspect", str(path)]) == 2
    assert "error: " in capsys.readouterr().err
