"""Checkpoints of missing, clashing, cut or hostile files: an error that names the file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.bad_checkpoints import FIRST, INDEX, PLAIN, SECOND, X, edited_index, refuse
from helpers.checkpoints import named, write_folder

from cupy_w4a16 import load_checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.pop("weight_map"), "weight_map is a NoneType"),
        (lambda index: index.update(weight_map=[]), "weight_map is a list"),
        (lambda index: index.update(weight_map={}), "names no tensor"),
        (lambda index: index["weight_map"].update(norm=3), "puts tensor 'norm' into 3"),
        (lambda index: index["weight_map"].update(norm="../" + FIRST), r"into '../model.*no \*.safetensors"),
        (lambda index: index["weight_map"].update(norm="/etc/passwd"), "into '/etc/passwd'"),
        (lambda index: index["weight_map"].update(norm=""), "into ''"),
        (lambda index: index["weight_map"].update(norm="pytorch_model.bin"), "pickles run code"),
        (lambda index: index["weight_map"].update(other=FIRST), "puts tensor 'other' into .*not"),
        (lambda index: index["weight_map"].update({"x.qweight": SECOND}), "puts tensor 'x.qweight' into"),
    ],
)
def test_index_that_leads_nowhere_is_named(change: Any, message: str, folder: Path) -> None:
    edited_index(folder, change)
    refuse(folder, ValueError, message)


def test_missing_shard_is_named(folder: Path) -> None:
    (folder / SECOND).unlink()
    refuse(folder, FileNotFoundError, f"names 2 files, of which 1 are missing: {SECOND}")


def test_tensor_in_two_shards_is_a_clash(folder: Path) -> None:
    (folder / SECOND).write_bytes(made.safetensors_bytes(named({"x": made.gptq(X)}, PLAIN)))
    refuse(folder, ValueError, "stands in .* and in ")


def test_layer_and_array_of_one_name_clash(folder: Path) -> None:
    write_folder(folder, named({"x": made.gptq(X)}, {"x": np.ones(3, np.float16)}), made.GPTQ)
    refuse(folder, ValueError, "has both a tensor 'x' and a quantized layer")


def test_shards_cut_anywhere_are_refused(folder: Path) -> None:
    whole = (folder / FIRST).read_bytes()
    for length in range(0, len(whole), 97):
        (folder / FIRST).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=FIRST):
            load_checkpoint(folder)


def test_path_that_is_none_is_an_os_error(tmp_path: Path) -> None:
    refuse(tmp_path / "none.safetensors", FileNotFoundError, "none.safetensors")
    refuse(tmp_path, FileNotFoundError, "holds no checkpoint")


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "trapped"),)

    folder = tmp_path / "model"
    folder.mkdir()
    data = pickle.dumps({"x": Trap()})
    for name in ("pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(data)
        refuse(folder / name, ValueError, "pickles run code when loaded and are refused")
    refuse(
        folder, ValueError, "model.pt, pytorch_model.bin and no safetensors or GGUF file: pickles run code"
    )
    (folder / "model.safetensors").write_bytes(data)
    refuse(folder, ValueError, "a pickle, which runs code")
    assert not (tmp_path / "trapped").exists()


def test_several_checkpoints_in_a_folder_are_not_guessed_at(folder: Path) -> None:
    (folder / INDEX).unlink()
    refuse(folder, ValueError, "has 2 checkpoints and no index of them: pass one of model-00001")
    (folder / "a.safetensors.index.json").write_text("{}")
    (folder / "b.safetensors.index.json").write_text("{}")
    refuse(folder, ValueError, "has 2 checkpoints")


def test_part_of_a_split_gguf_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00003.gguf"
    path.write_bytes(made.gguf_bytes({}))
    refuse(path, ValueError, "is one of 3 parts of a GGUF model: join them")
