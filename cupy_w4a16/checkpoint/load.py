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
    and Q4_1 (extra `[formats]`); and what `save` wrote. Settings come from `config.json` beside the files (or
    `quantize_config.json`, `quant_config.json`); without, from the look of the tensors, GPTQ as v1.

    A layer is named as its module, "model.layers.0.mlp.up_proj", and has that module's bias, rounded to the
    dtype of the scales; where a file has one layer's tensors alone, without a name before their parts, it is
    "". Every other tensor is a plain array under its full name and as it is stored: an unquantized weight is
    (n, k). GGUF keeps embeddings in 4 bits: they come as the `Linear` from the hidden size to the vocabulary.
    What `save` wrote comes back as it was saved, a `QuantizedWeight` too: it does not keep k, so you make the
    Linear, `Linear(*weight, k=k)`.

    Parameters
    ----------
    path : str or path, a file, a folder, or an index
        Headers and settings are read here, tensors in their turn.
    names : str or iterable of str, which to yield; None: all
        A pattern such as "model.layers.0.*", or several. `*`, `?` and `[...]` are wildcards; a whole name
        always is itself.
    xp : module, `numpy` or `cupy`: where they go; cupy's current device
        Packing happens there too.
    dequantize : bool
        True: of a GGUF file, give tensors of other quantized types (Q6_K, Q8_0, ...) as plain float32 arrays
        (n, k); False: they are an error.
    progress : bool, whether to show a bar on stderr; None: where that is a terminal

    Returns
    -------
    Checkpoint
        An iterable of pairs `(name, Linear or array)` (of a file that `save` wrote, what was saved), anew for
        each loop: `dict(checkpoint)` reads all, `save(file, checkpoint)` packs it for good, one layer in
        memory at a time. `checkpoint.names` has the names, `checkpoint.format` what was recognised.

    Raises
    ------
    OSError
        A file is missing (a shard, say) or can't be read.
    ValueError
        A file is damaged, truncated or pickled (refused: a pickle runs code), the quantization is not served,
        names clash, or a pattern of `names` matches nothing; or, of what is chosen, tensors of a layer are
        missing (the groups of act-order and zeros too, where settings say that there are some), a tensor is
        of a dtype that can't be read, or belongs to something quantized that is not served (AWQ's gemv,
        stacked experts, 8 bits, a layer without its codes): it is no plain array. That is said here; where
        tensors don't fit together, only when the layer's turn comes. The message names the tensor.
    TypeError
        `path` names no file, `xp` is no such module, or `names` no text.
    ImportError
        The package gguf is missing.

    Examples
    --------
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
    source: GgufCheckpoint | TensorCheckpoint | _Saved
    if files.is_gguf:
        source = GgufCheckpoint(files.paths[0], xp, dequantize)
    elif len(files.paths) == 1 and Safetensors(files.paths[0]).metadata.get("format") == FORMAT:
        source = _Saved(files.paths[0], xp)
    else:
        source = TensorCheckpoint(files, xp)
    chosen = _chosen(source.names, names, str(path))
    if not isinstance(source, _Saved):
        source.check(chosen)
    return Checkpoint(source, chosen, progress, str(path), files.paths)


class Checkpoint(Iterable[tuple[str, Any]]):
    """What `load_checkpoint` returns: pairs of names and weights or arrays, read as they are iterated over.

    Attributes
    ----------
    names : list of str, of what a loop yields, in the order of the file
    format : str, what was recognised, in words

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from cupy_w4a16 import load_checkpoint, save
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> save(path, {"norm": np.ones(64)})
    >>> checkpoint = load_checkpoint(path)
    >>> len(checkpoint), checkpoint.names
    (1, ['norm'])
    """

    def __init__(
        self,
        source: _Source,
        names: list[str],
        progress: bool | None,
        path: str,
        files: tuple[Path, ...],
    ) -> None:
        self.names, self.format = list(names), source.format
        self._source, self._progress, self._path, self._files = source, progress, path, files

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        from tqdm import tqdm

        hidden = None if self._progress is None else not self._progress  # None: unless on a terminal
        for name in tqdm(self.names, desc=Path(self._path).name, unit=" tensors", disable=hidden):
            yield name, self._read(name)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<{len(self)} layers and arrays in {self._path!r} ({self.format})>"

    def _read(self, name: str) -> Any:
        try:
            return self._source.read(name)
        except MemoryError as error:  # the host's, or the GPU's: CuPy's OutOfMemoryError is one
            raise MemoryError(f"{self._path}: no memory for {name!r}: {error}") from error

    def _check_target(self, path: Path) -> None:
        """ValueError where what `save` writes there would replace more of the model than it holds."""
        if not path.exists() or not any(path.samefile(file) for file in self._files):
            return
        if len(self._files) > 1:
            raise ValueError(
                f"{path} is one of the {len(self._files)} files of {self._path}, which are no model without "
                "it: write to another file, and delete these afterwards"
            )
        left_out = sorted(set(self._source.names) - set(self.names))
        if left_out:
            raise ValueError(
                f"{path} is the file that is read, and {len(left_out)} of its layers and arrays "
                f"({first_of(left_out)}) are left out and would be lost: write to another file"
            )


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
