"""The demo's command: what it prints and draws, and how it ends where something is missing or wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cupy_w4a16.__main__ import main
from cupy_w4a16._scheme import METHODS
from cupy_w4a16.demo.methods import methods

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")

ON_CPU = ("demo", "--device", "cpu", "--model")


def test_demo_command_prints_and_draws(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    sentences = tmp_path / "sentences.txt"
    sentences.write_text(
        "The train to the coast.\n\nLentils with garlic.\n  A distant galaxy.  \n", encoding="utf-8"
    )
    picture = tmp_path / "picture.png"
    arguments = [*ON_CPU, tiny_folder, "--sentences", sentences, "--plot", picture]
    assert main([str(a) for a in [*arguments, "--group-size", "-1", "--method", "hqq"]]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "asymmetric 4 bits (hqq), one group a column",
        "NumPy on the CPU",
        "A distant galaxy.",
        "12 linear layers",
        "hidden state",
    ):
        assert expected in printed
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_table_leaves_no_method_out(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert {method.name for method in methods(128)} == set(METHODS)
    arguments = [*ON_CPU, str(tiny_folder), "--group-size", "32", "--compare"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in printed[printed.index("mean cosine") :].splitlines()[1:]]
    assert rows == ["rtn", "mse", "awq, rtn", "rtn", "mse", "hqq", "awq, rtn"]
    assert "groups of 32" in printed


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--model", "{tmp}"], "has no config.json, model.safetensors, tokenizer.json"),
        (["--sentences", "{tmp}/none.txt"], "No such file"),
        (["--sentences", "{tmp}/one.txt"], "holds 1 sentence(s)"),
        (["--sentences", "{tmp}/latin.txt"], "UTF-8"),
        (["--group-size", "100"], "100"),
        (["--compare", "--group-size", "100"], "100"),
        (["--compare", "--plot", "{tmp}/picture.png"], "leave out --compare"),
    ],
)
def test_mistake_ends_with_a_sentence_and_status_2(
    extra: list[str], said: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "one.txt").write_text("Only this.\n\n")
    (tmp_path / "latin.txt").write_bytes("Grüße.\nNoch einer.\n".encode("latin-1"))
    assert main([*ON_CPU, str(tiny_folder), *(e.format(tmp=tmp_path) for e in extra)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("none/picture.png", "make the folder"),
        ("picture.xyz", "matplotlib draws no .xyz"),
        ("folder.png", "it is a folder"),
    ],
)
def test_picture_that_cannot_be_written_is_said_before_the_work(
    place: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "folder.png").mkdir()
    # The model is the first thing that the demo opens, and it is not there.
    for command in ([*ON_CPU, str(tmp_path / "none")], ["bench"]):
        assert main([*command, "--plot", str(tmp_path / place)]) == 2
        error = capsys.readouterr().err
        assert f"--plot {tmp_path / place}: " in error
        assert said in error


@pytest.mark.parametrize("package", ["matplotlib", "safetensors.numpy", "tokenizers"])
def test_missing_package_is_named(
    package: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main([*ON_CPU, str(tiny_folder), "--plot", str(tmp_path / "picture.png")]) == 2
    assert f"pip install {package.partition('.')[0]}" in capsys.readouterr().err
