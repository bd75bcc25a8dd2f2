"""`load_checkpoint`: whatever kind of checkpoint a path holds, as weights and arrays, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from .._arrays import check_library
from ..formats._safetensors import Safetensors
from ..storage import FORMAT, Weights
from .files import find_files, first_of
from .gguf import GgufCheckpoint
from .tensors import TensorCheckpoint


class _Source(Protocol):
    format: str
    names: list[str]

    def read(self, name: str) -> Any: ...


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    names: str | Iterable[str] | None = None,
    xp: ModuleType = np,
    dequantize: bool = False,
    progress: bool | None = None,
) -> Checkpoint:
    """The layers of a 4-bit checkpoint, each packed when its turn comes: pairs of a name and a `Linear`.

    Served are, recognised by settings and content, not by name: GPTQ (v1 and v2, act-order too), AWQ (version
    gemm) and compressed-tensors (pack-quantized, groups or channels) in a safetensors file, or in a folder of
    the Hugging Face layout with one, or with shards and `model.safetensors.index.json`; GGUF files with Q4_0
    and Q4_1 (extra ``[formats]``); and what `save` wrote. Settings come from `config.json` beside the files
    (or `quantize_config.json`, `quant_config.json`); without, from the look of the tensors, GPTQ as v1.

    A layer is named as its module, "model.layers.0.mlp.up_proj", and has that module's bias, rounded to the
    dtype of the scales. Every other tensor is a plain array under its full name and as it is stored: an
    unquantised weight is (n, k). GGUF keeps embeddings in 4 bits: they come as the `Linear` from the hidden
    size to the vocabulary. What `save` wrote comes back as it was saved, a `QuantizedWeight` too: it does not
    keep k, so you make the Linear, `Linear(*weight, k=k)`.

    Args:
        path: a file, a folder, or an index. Headers and settings are read here, tensors in their turn.
        names: which to yield: a pattern such as "model.layers.0.*", or several; None: all. `*`, `?` and
            `[...]` are wildcards; a whole name always is itself.
        xp: ``numpy`` or ``cupy``: where they go; cupy's current device. Packing happens there too.
        dequantize: of a GGUF file, give tensors of other quantised types (Q6_K, Q8_0, ...) as plain float32
            arrays (n, k); False: they are an error.
        progress: show a bar on stderr; None: where that is a terminal.

    Returns:
        An iterable of pairs ``(name, Linear or array)`` (of a file that `save` wrote, what was saved), anew
        for each loop: ``dict(checkpoint)`` reads all, ``save(file, checkpoint)`` packs it for good, one layer
        in memory at a time. ``checkpoint.names`` has the names, ``checkpoint.format`` what was recognised.

    Raises:
        OSError: a file is missing (a shard, say) or can't be read.
        ValueError: a file is damaged, truncated or pickled (refused: a pickle runs code), the quantisation is
            not served, tensors of a layer are missing or don't fit together, names clash, or a pattern of
            ``names`` matches nothing; some only when the layer's turn comes. The message names the tensor.
        TypeError: ``path`` names no file, ``xp`` is no such module, or ``names`` no text.
        ImportError: the package gguf is missing.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from cupy_w4a16 import Linear, load_checkpoint, quantize, save
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> save(path, {"up": Linear(*quantize(np.eye(128, 64, dtype=np.float16))), "norm": np.ones(64)})
        >>> for name, value in load_checkpoint(path, names="up"):
        ...     print(name, value)
        up Linear(128 -> 64, group_size=128, float16, numpy)
    """
    check_library(xp)
    files = find_files(path)
    source: _Source
    if files.is_gguf:
        source = GgufCheckpoint(files.paths[0], xp, dequantize)
    elif len(files.paths) == 1 and Safetensors(files.paths[0]).metadata.get("format") == FORMAT:
        source = _Saved(files.paths[0], xp)
    else:
        source = TensorCheckpoint(files, xp)
    chosen = _chosen(source.names, names, str(path))
    if isinstance(source, GgufCheckpoint):
        source.check(chosen)
    return Checkpoint(source, chosen, progress, str(path))


class Checkpoint(Iterable[tuple[str, Any]]):
    """What `load_checkpoint` returns: pairs of names and weights or arrays, read as they are iterated over.

    Attributes:
        names: of what a loop yields, in the order of the file.
        format: what was recognised, in words.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from cupy_w4a16 import load_checkpoint, save
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> save(path, {"norm": np.ones(64)})
        >>> checkpoint = load_checkpoint(path)
        >>> len(checkpoint), checkpoint.names
        (1, ['norm'])
    """

    def __init__(self, source: _Source, names: list[str], progress: bool | None, path: str) -> None:
        self.names, self.format = names, source.format
        self._source, self._progress, self._path = source, progress, path

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        from tqdm import tqdm

        hidden = None if self._progress is None else not self._progress  # None: unless on a terminal
        for name in tqdm(self.names, desc=Path(self._path).name, unit=" tensors", disable=hidden):
            yield name, self._source.read(name)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<{len(self)} layers and arrays in {self._path!r} ({self.format})>"


class _Saved:
    """A file that `save` wrote."""

    def __init__(self, path: Path, xp: ModuleType) -> None:
        self._weights, self.format = Weights(path, xp), FORMAT
        self.names = list(self._weights)

    def read(self, name: str) -> Any:
        # No Linear of a QuantizedWeight: that doesn't keep k, and whole groups may be more than it.
        return self._weights[name]


def _chosen(found: list[str], wanted: str | Iterable[str] | None, path: str) -> list[str]:
    if wanted is None:
        return found
    if not isinstance(wanted, Iterable):
        raise TypeError(f"names is {wanted!r}: pass a pattern such as 'model.layers.0.*', several, or None")
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"names holds {pattern!r}: pass names or patterns such as 'model.layers.0.*'")
        if not any(_matches(name, pattern) for name in found):
            some = first_of([repr(name) for name in found]) or "no names"
            raise ValueError(f"names: nothing in {path} matches {pattern!r}; there are {some}")
    return [name for name in found if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    """Whether it is this very name, brackets and all, or one that fits."""
    return name == pattern or fnmatchcase(name, pattern)
