"""Packed weights on disk: `save` and `load`, a safetensors file that says which packed layout it has.

Metadata: `format` is "cupy_w4a16", `packed_layout_version` the number, `weights` JSON: for each weight its
kind ("weight", "permuted" or "linear"), the names of its arrays, and what is no array, such as `group_size`
and `k`. The arrays of weight W are the tensors `W.b_packed`, `W.scales` and so on; every tensor that no
weight names is a plain array.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ._arrays import check_library, type_name
from ._pack import PACKED_LAYOUT_VERSION
from ._quantize import QuantizedWeight
from ._scalars import as_path
from ._weight_parts import KINDS, parts_of
from .formats._permuted import PermutedWeight
from .formats._safetensors import METADATA, Entry, Safetensors
from .formats._safetensors_writer import SafetensorsWriter
from .linear import Linear

FORMAT = "cupy_w4a16"
_HEADER_BYTES = 2048  # room for what the header says of a weight


def save(path: str | os.PathLike[str], weights: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
    """Write packed weights to a safetensors file, so that packing happens once; `load` reads it.

    The file is written beside its place and moved there when it is whole. Weights are written as they come,
    GPU arrays copied to the host one at a time: `save(path, load_checkpoint(source))` holds one in memory.

    Parameters
    ----------
    path : str or path, the file, by custom `*.safetensors`
        It is replaced if it exists (of a symbolic link the target).
    weights : mapping of names to weights, or iterable of pairs (name, weight)
        Weights are any of: `QuantizedWeight`, `PermutedWeight`, `Linear` (with bias, alpha and its other
        options), and plain NumPy or CuPy arrays (norms, embeddings). Only a `Linear` keeps k where the last
        group or block is not whole.

    Raises
    ------
    TypeError
        `path` names no file, `weights` is one weight without a name, a name is no text, a value none of
        these, or a dtype one that safetensors lacks.
    ValueError
        A name comes twice, or names clash (a plain array "up.scales" beside a weight "up"), or arrays of a
        weight do not fit together; or `weights` is a `load_checkpoint` of which a part would be lost, as it
        reads `path` among other files, or not all of it.
    OSError
        The file can't be written, or what is there is no regular file.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from cupy_w4a16 import load, quantize, save
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> save(path, {"up": quantize(np.eye(128, 64, dtype=np.float16)), "norm": np.ones(64, np.float16)})
    >>> sorted(load(path))
    ['norm', 'up']
    """
    described: dict[str, dict[str, Any]] = {}
    owners: dict[str, str] = {}
    names: set[str] = set()
    check_target = getattr(weights, "_check_target", None)  # a Checkpoint's, which reads files as it yields
    if check_target is not None:
        check_target(as_path(path))
    room = _HEADER_BYTES * (1 + operator.length_hint(weights, 1000))
    with SafetensorsWriter(path, room) as writer:
        for name, value in _pairs(weights):
            _add_name(names, name)
            parts = parts_of(name, value)
            if isinstance(value, tuple(KINDS.values())):
                described[name] = {
                    "kind": next(kind for kind, one in KINDS.items() if isinstance(value, one)),
                    "arrays": [key for key, x in parts.items() if hasattr(x, "shape")],
                    **{key: x for key, x in parts.items() if not hasattr(x, "shape")},
                }
                parts = {f"{name}.{key}": x for key, x in parts.items() if hasattr(x, "shape")}
            for key, x in parts.items():
                if key in owners:
                    raise ValueError(
                        f"weights {owners[key]!r} and {name!r} both need the tensor {key!r}: rename one"
                    )
                owners[key] = name
                writer.add(key, x)
        metadata = {
            "format": FORMAT,
            "packed_layout_version": str(PACKED_LAYOUT_VERSION),
            "weights": json.dumps(described),
        }
        writer.finish(metadata)


def load(path: str | os.PathLike[str], *, xp: ModuleType = np) -> Weights:
    """The weights of a file that `save` wrote, by name, each read when it is asked for.

    Parameters
    ----------
    path : str or path, the file, of which only the header is read here
    xp : module, `numpy` or `cupy`: where arrays go; cupy's current device

    Returns
    -------
    Weights
        A read-only mapping of names to what was saved: `QuantizedWeight`, `PermutedWeight`, `Linear` or plain
        array, new at each look-up. `dict(load(path))` reads all.

    Raises
    ------
    TypeError
        `path` names no file, or `xp` is no such module.
    OSError
        The file can't be read, or is a folder.
    ValueError
        The file is no safetensors file, truncated, not of this package, or of another packed layout; at a
        look-up: its arrays do not make a weight.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from cupy_w4a16 import Linear, load, quantize, save
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> save(path, {"up": Linear(*quantize(np.eye(200, 64, dtype=np.float16)), k=200)})
    >>> load(path)["up"]
    Linear(200 -> 64, group_size=128, float16, numpy)
    """
    check_library(xp)
    path = as_path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path is {str(path)!r}, a folder: load_checkpoint reads model folders")
    return Weights(path, xp)


class Weights(Mapping[str, Any]):
    """What `load` returns: a saved file as a mapping; `parts` and `options` read nothing more."""

    def __init__(self, path: str | os.PathLike[str], xp: ModuleType = np) -> None:
        self._file, self._xp = Safetensors(path), xp
        self._described = _described(self._file)
        self._parts = {
            name: {key: f"{name}.{key}" for key in one.pop("arrays")} for name, one in self._described.items()
        }
        owned = {tensor for parts in self._parts.values() for tensor in parts.values()}
        for name in owned - self._file.entries.keys():
            raise ValueError(f"{self.path} is damaged: the tensor {name!r} of a weight is missing")
        plain = self._file.entries.keys() - owned
        for name in plain & self._parts.keys():
            raise ValueError(f"{self.path} is damaged: {name!r} is both a weight and a tensor")
        self._parts |= {name: {"": name} for name in self._file.entries if name in plain}

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def parts(self, name: str) -> dict[str, Entry]:
        """Dtype, shape and place of each tensor of a weight; under "" that of a plain array."""
        return {key: self._file.entries[tensor] for key, tensor in self._parts[name].items()}

    def options(self, name: str) -> dict[str, Any]:
        """What a weight has beside its tensors: kind, group_size, ...; nothing for a plain array."""
        return dict(self._described.get(name, {}))

    def __getitem__(self, name: str) -> Any:
        parts, options = self._parts[name], self.options(name)
        kind = options.pop("kind", None)
        arrays = {key: self._xp.asarray(self._file.read(tensor)) for key, tensor in parts.items()}
        if kind is None:
            return arrays[""]
        value: Any
        try:
            if kind == "permuted":
                value = PermutedWeight(perm=arrays.pop("perm"), weight=_weight(arrays, options))
            else:
                value = _weight(arrays, options) if kind == "weight" else Linear(**(arrays | options))
            parts_of(name, value)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}: weight {name!r} is damaged: {error}") from error
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __repr__(self) -> str:
        return f"<{len(self)} weights in {str(self.path)!r}>"


def _pairs(weights: Any) -> Iterator[tuple[Any, Any]]:
    """Names and values; TypeError where they are no pairs."""
    if isinstance(weights, (*KINDS.values(), str)) or not isinstance(weights, Iterable):
        raise TypeError(
            f"weights is a {type_name(weights)}: pass a mapping such as {{'up': weight}}, or pairs of a name "
            "and a weight"
        )
    for item in weights.items() if isinstance(weights, Mapping) else weights:
        if not isinstance(item, tuple) or len(item) != 2:
            raise TypeError(f"weights yields a {type_name(item)}: pass a mapping, or pairs (name, weight)")
        yield item


def _add_name(names: set[str], name: Any) -> None:
    """Take note of a name; TypeError or ValueError where it can't be one."""
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is a {type_name(name)}: names are texts")
    if name == METADATA or _is_broken(name):
        raise ValueError(f"the name {name!r} can't stand in a safetensors file: rename it")
    if name in names:
        raise ValueError(f"two weights have the name {name!r}: rename one")
    names.add(name)


def _is_broken(text: str) -> bool:
    """Whether UTF-8 can't say it: half of a surrogate pair."""
    return text.encode(errors="replace").decode() != text


def _weight(arrays: dict[str, Any], options: dict[str, Any]) -> QuantizedWeight:
    if type(options["group_size"]) is not int:
        raise TypeError(f"its group_size is {options['group_size']!r}")
    return QuantizedWeight(**({"zeros": None} | arrays | options))


def _described(file: Safetensors) -> dict[str, dict[str, Any]]:
    """The weights that the metadata describe, as far as metadata alone can be checked."""
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{file.path} is a safetensors file that save() did not write (its metadata name the format "
            f"{metadata.get('format')!r}, not {FORMAT!r}): load_checkpoint reads those of other tools"
        )
    version = metadata.get("packed_layout_version")
    if version != str(PACKED_LAYOUT_VERSION):
        raise ValueError(
            f"{file.path} has packed layout version {version!r}, this package reads {PACKED_LAYOUT_VERSION}: "
            "pack the weights anew, or use the version of the package that wrote it"
        )
    try:
        described = json.loads(metadata["weights"])
        sound = all(
            one["kind"] in KINDS and all(isinstance(key, str) for key in one["arrays"])
            for one in described.values()
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise ValueError(f"{file.path} is damaged: its metadata do not describe its weights")
    return {str(name): dict(one) for name, one in described.items()}
