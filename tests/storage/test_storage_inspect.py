"""`inspect` shows what a file holds, and no name commands the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.stored import N, file_of, header_of

from cupy_w4a16 import PACKED_LAYOUT_VERSION, save
from cupy_w4a16.__main__ import main


def test_inspect_shows_shapes_groups_dtypes_and_bytes(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(saved)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["name", "shape", "group", "size", "dtypes", "bytes"]
    rows = {line.split()[0]: line for line in printed[1:-1]}
    packed = 2 * 2 * 4096
    assert "k <= 256, n 70  32 " in rows["up"]
    assert "scales F16, zeros U8" in rows["up"]
    assert rows["up"].endswith(f"{packed + 7 * N * 3:,}")
    assert "k 200, n 70" in rows["down"]
    assert rows["norm"].endswith(f"{2 * N}")
    total = 2 * packed + 7 * N * 5 + 2 * N
    assert printed[-1] == f"3 weights, packed layout {PACKED_LAYOUT_VERSION}, {total:,} bytes"


def test_inspect_quotes_names_that_would_command_a_terminal(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(path, {"\x1b[2J": np.ones(2)})
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"'\x1b[2J'" in printed


@pytest.mark.parametrize("option", ["k", "group_size"])
def test_inspect_quotes_numbers_that_are_none(
    option: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, body = header_of(saved.read_bytes())
    described = json.loads(header["__metadata__"]["weights"])
    described["down"][option] = "\x1b[2J"
    header["__metadata__"]["weights"] = json.dumps(described)
    saved.write_bytes(file_of(header, body))
    assert main(["inspect", str(saved)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"\x1b[2J" in printed


def test_inspect_quotes_a_version_that_is_none(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, body = header_of(saved.read_bytes())
    header["__metadata__"]["packed_layout_version"] = "\x1b[2J"
    saved.write_bytes(file_of(header, body))
    assert main(["inspect", str(saved)]) == 2
    assert r"packed layout version '\x1b[2J'" in capsys.readouterr().err


def test_inspect_of_a_missing_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
