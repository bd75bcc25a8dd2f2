"""Which files a checkpoint is made of: one file, or a folder's shards by their index; and its settings.

Source of the folder's layout: Hugging Face transformers (`model.safetensors.index.json` with a `weight_map`
of tensors to files; `quantization_config` in `config.json`). AutoGPTQ and AutoAWQ alone wrote the settings to
`quantize_config.json` and `quant_config.json`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._scalars import as_path
from ..formats._safetensors import MAX_HEADER_BYTES, without_duplicates

_INDEX = ".safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_REFUSED = "pickles run code when loaded and are refused; make it safetensors where it is trusted"
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.safetensors$")
_GGUF_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


class Files(NamedTuple):
    """The files of a checkpoint; with an index, which tensor it puts into which file."""

    paths: tuple[Path, ...]
    is_gguf: bool = False
    index_path: Path | None = None
    weight_map: dict[str, str] = {}  # noqa: RUF012 (never written)


class Settings(NamedTuple):
    """What a checkpoint says of its quantization, and where it says so."""

    path: Path
    values: dict[str, Any]


def find_files(path: str | os.PathLike[str]) -> Files:
    """The files behind a path: a file, an index, or a folder; nothing but an index is read."""
    path = as_path(path)
    if path.is_dir():
        return _in_folder(path)
    if path.name.endswith(_INDEX):
        return _indexed(path)
    if path.suffix in _PICKLES:
        raise ValueError(f"{path} is a {path.suffix} file: {_REFUSED}")
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    part = _GGUF_PART.search(path.name)
    if is_gguf and part and int(part[1]) > 1:
        raise ValueError(
            f"{path} is one of {int(part[1])} parts of a GGUF model: join them (llama-gguf-split --merge)"
        )
    return Files((path,), is_gguf)


def is_shard(files: Files) -> bool:
    """Whether it is one of several files of a model, alone: layers may be elsewhere, wholly or in part."""
    part = _SHARD.search(files.paths[0].name)
    return files.index_path is None and part is not None and int(part[1]) > 1


def find_settings(files: Files) -> Settings | None:
    """The settings that lie beside the files; None where there are none."""
    folder = files.paths[0].parent
    config = folder / "config.json"
    if config.is_file():
        values = read_json(config)
        for holder in (values, values.get("text_config")):  # models of texts and images keep it further down
            if isinstance(holder, dict):
                for key in ("quantization_config", "compression_config"):
                    if holder.get(key) is not None:
                        return Settings(config, _object(config, key, holder[key]))
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        if (folder / name).is_file():
            return Settings(folder / name, {"quant_method": method, **read_json(folder / name)})
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; ValueError where it holds none."""
    size = path.stat().st_size
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"{path} has {size} bytes, where {MAX_HEADER_BYTES} are allowed: it is no such file")
    try:
        found = json.loads(path.read_bytes().decode(), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, no JSON: {error}") from error
    return _object(path, "it", found)


def first_of(names: Sequence[str], most: int = 5) -> str:
    """Some names for a message.

    >>> first_of(["a", "b", "c"], 2), first_of(["a"])
    ('a, b, ...', 'a')
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _object(path: Path, what: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: {what} is a {type(found).__name__}, not an object")
    return found


def _in_folder(folder: Path) -> Files:
    indices, whole, ggufs = (sorted(folder.glob(f"*{end}")) for end in (_INDEX, ".safetensors", ".gguf"))
    if len(indices) == 1:
        return _indexed(indices[0])
    whole = [path for path in whole if path.name == "model.safetensors"] or whole
    found = indices or whole or ggufs
    if len(found) == 1:
        return find_files(found[0])
    if found:
        names = [path.name for path in found]
        raise ValueError(
            f"{folder} has {len(found)} checkpoints and no index of them: pass one of {first_of(names)}"
        )
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
    if pickles:
        raise ValueError(f"{folder} has {first_of(pickles)} and no safetensors or GGUF file: {_REFUSED}")
    raise FileNotFoundError(f"{folder} holds no checkpoint: no *.safetensors, *{_INDEX} or *.gguf")


def _indexed(index: Path) -> Files:
    weight_map = _object(index, "weight_map", read_json(index).get("weight_map"))
    for tensor, name in weight_map.items():
        # A name with a path in it could lead out of the folder.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            kind = f": {_REFUSED}" if str(name).endswith(_PICKLES) else ""
            raise ValueError(
                f"{index} puts tensor {tensor!r} into {name!r}, which is no *.safetensors beside it{kind}"
            )
    if not weight_map:
        raise ValueError(f"{index} is damaged: its weight_map names no tensor")
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{index} names {len(names)} files, of which {len(missing)} are missing: {first_of(missing)}; "
            "download them again"
        )
    return Files(tuple(index.parent / name for name in names), False, index, weight_map)
