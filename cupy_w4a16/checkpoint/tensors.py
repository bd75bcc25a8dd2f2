"""A checkpoint of safetensors files: tensors brought together to layers, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..formats import PermutedWeight, from_awq, from_compressed_tensors, from_gptq
from ..formats._nibbles import PER_WORD
from ..formats._safetensors import Entry, Safetensors
from ..linear import Linear
from .bias import bias_like
from .files import Files, find_settings
from .scheme import Scheme, scheme_from_settings, scheme_from_tensors


class _Reader(NamedTuple):
    """A reader with its tensors: layers are known by the first, the codes; all `needed` must be there."""

    read: Callable[..., Any]
    k: Callable[[dict[str, np.ndarray]], int]  # of tensors that have been read without an error
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


def _k_of_compressed_tensors(arrays: dict[str, np.ndarray]) -> int:
    shape = arrays.get("weight_shape")
    return PER_WORD * arrays["weight_packed"].shape[1] if shape is None else int(shape[1])


_READERS = {
    "gptq": _Reader(
        from_gptq,
        lambda arrays: PER_WORD * arrays["qweight"].shape[0],
        ("qweight", "qzeros", "scales"),
        ("g_idx",),
    ),
    "awq": _Reader(from_awq, lambda arrays: arrays["qweight"].shape[0], ("qweight", "qzeros", "scales")),
    "compressed-tensors": _Reader(
        from_compressed_tensors,
        _k_of_compressed_tensors,
        ("weight_packed", "weight_scale"),
        ("weight_zero_point", "weight_shape", "weight_g_idx"),
    ),
}
_EIGHTS = np.uint32(0x88888888)


class TensorCheckpoint:
    """Layers and plain arrays of safetensors files. Headers and settings are read here, tensors by `read`."""

    def __init__(self, files: Files, xp: ModuleType = np) -> None:
        self._path, self._xp = files.index_path or files.paths[0], xp
        self._files: dict[str, Safetensors] = {}
        for path in files.paths:
            file = Safetensors(path)
            for name in file.entries:
                if name in self._files:
                    raise ValueError(f"tensor {name!r} stands in {self._files[name].path} and in {path}")
                self._files[name] = file
        for name, shard in files.weight_map.items():
            if name not in self._files or self._files[name].path.name != shard:
                raise ValueError(f"{files.index_path} puts tensor {name!r} into {shard}, where it is not")
        self.entries: dict[str, Entry] = {name: file.entries[name] for name, file in self._files.items()}
        settings = find_settings(files)
        self.scheme = scheme_from_settings(settings) if settings else scheme_from_tensors(self.entries)
        #: By name of a layer, its tensors by part; a plain array is itself.
        self.parts = _layers(self.entries, self.scheme, str(self._path))
        self.names = list(self.parts)
        self.format = str(self.scheme or "not quantised")

    def read(self, name: str) -> Any:
        """A `Linear`, or a plain array."""
        parts = self.parts[name]
        arrays = {part: self._files[tensor].read(tensor) for part, tensor in parts.items()}
        if "" in arrays:
            return self._xp.asarray(arrays[""])
        assert self.scheme
        try:
            return _linear(arrays, self.scheme, self._xp)
        except (TypeError, ValueError, OverflowError) as error:
            tensor = next(iter(parts.values()))
            raise ValueError(
                f"{self._files[tensor].path}: layer {name!r} ({self.scheme}): {error}"
            ) from error


def _layers(entries: Mapping[str, Entry], scheme: Scheme | None, path: str) -> dict[str, dict[str, str]]:
    """For each layer its tensors by part, in the files' order; for a plain array the part ''."""
    if scheme is None:
        return {name: {"": name} for name in entries}
    reader = _READERS[scheme.method]
    codes = f".{reader.needed[0]}"
    bases = {name.removesuffix(codes) for name in entries if name.endswith(codes)}
    if not bases:
        raise ValueError(
            f"{path} has no tensor *{codes}, in which {scheme.method} (by {scheme.source}) keeps codes: "
            "it is not quantised, or packed for another kernel"
        )
    layers: dict[str, dict[str, str]] = {}
    for name in entries:
        base, _, part = name.rpartition(".")
        if base in bases and part in (*reader.needed, *reader.optional, "bias"):
            layers.setdefault(base, {})[part] = name
        else:
            layers.setdefault(name, {})[""] = name
    needed = reader.needed
    if scheme.method == "compressed-tensors" and scheme.options.get("symmetric") is False:
        needed = (*needed, "weight_zero_point")
    for base in bases:
        if "" in layers[base]:
            raise ValueError(f"{path} has both a tensor {base!r} and a quantised layer of that name")
        missing = [f"{base}.{part}" for part in needed if part not in layers[base]]
        if missing:
            raise ValueError(f"{path} has {base}{codes}, but not {' and '.join(missing)}: it is not whole")
        if 0 in entries[base + codes].shape:
            raise ValueError(f"{path}: {base}{codes} is empty, of shape {entries[base + codes].shape}")
    return layers


def _linear(arrays: dict[str, np.ndarray], scheme: Scheme, xp: ModuleType) -> Linear:
    reader, bias = _READERS[scheme.method], arrays.pop("bias", None)
    options = dict(scheme.options)
    if options.get("symmetric") is False:
        options["symmetric"] = None  # zeros that are all 8 need not be kept
    elif scheme.method == "gptq" and _all_eight(arrays["qzeros"]):
        options["zero_offset"] = 0  # v2's zeros, whatever the label; in v1 those of symmetric weights are 7
    # The shape stays on the host: it is looked at there.
    placed = {part: x if part == "weight_shape" else xp.asarray(x) for part, x in arrays.items()}
    read = reader.read(**placed, **options)
    weight, perm = read if isinstance(read, PermutedWeight) else (read, None)
    return Linear(*weight, k=reader.k(arrays), bias=bias_like(bias, weight.scales, xp), perm=perm)


def _all_eight(qzeros: np.ndarray) -> bool:
    return qzeros.dtype == np.int32 and bool((qzeros.view(np.uint32) == _EIGHTS).all())
