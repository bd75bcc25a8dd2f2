"""A checkpoint of safetensors files: tensors brought together to layers, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..formats import PermutedWeight, from_awq, from_compressed_tensors, from_gptq
from ..formats._nibbles import PER_WORD, shortened
from ..formats._safetensors import DTYPES, Entry, Safetensors
from ..linear import Linear
from .bias import bias_like
from .files import Files, find_settings, is_shard
from .plain import why_not_plain
from .scheme import CheckpointScheme, scheme_from_settings, scheme_from_tensors


class _Reader(NamedTuple):
    """A reader with its tensors: layers are known by the first, the codes; all `needed` must be there.

    `order` is the tensor that act-order needs, and the key of settings that asks for it.
    """

    read: Callable[..., Any]
    k: Callable[[dict[str, np.ndarray]], int]  # of tensors that have been read without an error
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    order: tuple[str, str] | None = None


def _k_of_compressed_tensors(arrays: dict[str, np.ndarray]) -> int:
    shape = arrays.get("weight_shape")
    return PER_WORD * arrays["weight_packed"].shape[1] if shape is None else int(shape[1])


_READERS = {
    "gptq": _Reader(
        from_gptq,
        lambda arrays: PER_WORD * arrays["qweight"].shape[0],
        ("qweight", "qzeros", "scales"),
        ("g_idx",),
        ("g_idx", "desc_act"),
    ),
    "awq": _Reader(from_awq, lambda arrays: arrays["qweight"].shape[0], ("qweight", "qzeros", "scales")),
    "compressed-tensors": _Reader(
        from_compressed_tensors,
        _k_of_compressed_tensors,
        ("weight_packed", "weight_scale"),
        ("weight_zero_point", "weight_shape", "weight_g_idx"),
        ("weight_g_idx", "actorder"),
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
        alone = is_shard(files)
        self.parts = _layers(self.entries, self.scheme, str(self._path), alone)
        self.names = list(self.parts)
        self.format = str(self.scheme or "not quantized")
        self._advice = "pass the folder, of which this is one shard, or " if alone else ""

    def check(self, names: list[str]) -> None:
        """ValueError for one of `names` that `read` can't serve, where headers show it."""
        for name in names:
            parts = self.parts[name]
            if "" in parts:
                self._check_plain(name)
            else:
                self._check_layer(name)
            for tensor in parts.values():
                dtype = self.entries[tensor].dtype
                if dtype not in DTYPES:
                    raise ValueError(
                        f"{self._path}: tensor {tensor!r} has dtype {dtype}; readable are "
                        f"{', '.join(DTYPES)}: leave {name!r} out by names="
                    )

    def _check_plain(self, name: str) -> None:
        layer = self.parts.get(name.rpartition(".")[0], {"": ""})
        why = why_not_plain(name, self.entries) if "" in layer else None  # layers may have what we don't need
        if why:
            raise ValueError(f"{self._path}: tensor {name!r} {why}: {self._advice}leave it out by names=")

    def _check_layer(self, name: str) -> None:
        """Whether all tensors are there that the scheme needs, of which settings ask for some."""
        assert self.scheme
        parts, reader, advice = self.parts[name], _READERS[self.scheme.method], ""
        codes, needed = parts[reader.needed[0]], reader.needed
        if self.scheme.method == "compressed-tensors" and self.scheme.options.get("symmetric") is False:
            needed = (*needed, "weight_zero_point")
        if self.scheme.act_order and reader.order:
            part, key = reader.order
            needed = (*needed, part)
            if part not in parts:
                advice = f", or unset {key} in {self.scheme.source} if the groups are runs of k after all"
        prefix = codes.removesuffix(reader.needed[0])
        missing = [f"{prefix}{part}" for part in needed if part not in parts]
        if missing:
            raise ValueError(
                f"{self._path} has {codes}, but not {' and '.join(missing)}: it is not whole "
                f"({self.scheme}): {self._advice}leave layer {name!r} out by names={advice}"
            )
        if 0 in self.entries[codes].shape:
            raise ValueError(
                f"{self._path}: {codes} is empty, of shape {shortened(self.entries[codes].shape)}"
            )

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


def _layers(
    entries: Mapping[str, Entry], scheme: CheckpointScheme | None, path: str, is_shard: bool
) -> dict[str, dict[str, str]]:
    """For each layer its tensors by part, in the files' order; for a plain array the part ''.

    A layer whose tensors have no names before their parts is called ''.
    """
    if scheme is None:
        return {name: {"": name} for name in entries}
    reader = _READERS[scheme.method]
    codes = reader.needed[0]
    split = {name: name.rpartition(".") for name in entries}
    bases = {base for base, _, part in split.values() if part == codes}
    if not bases and not is_shard:
        raise ValueError(
            f"{path} has no tensor *.{codes}, in which {scheme.method} (by {scheme.source}) keeps codes: "
            "it is not quantized, or packed for another kernel"
        )
    layers: dict[str, dict[str, str]] = {}
    for name, (base, _, part) in split.items():
        ours = base in bases and part in (*reader.needed, *reader.optional, "bias")
        layer, key = (base, part) if ours else (name, "")
        if key in layers.setdefault(layer, {}):
            raise ValueError(f"{path} has both a tensor {name!r} and a tensor {layers[layer][key]!r}")
        layers[layer][key] = name
    for base in bases:
        if "" in layers[base]:
            raise ValueError(f"{path} has both a tensor {base!r} and a quantized layer of that name")
    return layers


def _linear(arrays: dict[str, np.ndarray], scheme: CheckpointScheme, xp: ModuleType) -> Linear:
    reader, bias = _READERS[scheme.method], arrays.pop("bias", None)
    options = dict(scheme.options)
    if options.get("symmetric") is False:
        options["symmetric"] = None  # zeros that are all 8 need not be kept
    elif scheme.method == "gptq" and _all_eight(arrays["qzeros"]):
        # v2's zeros, whatever the label: in v1 those of symmetric weights are 7. Without `sym`, weights are
        # symmetric too (the default of GPTQConfig), and a layer that is not has other zeros than 9 as well.
        options["zero_offset"] = 0
    # The shape stays on the host: it is looked at there.
    placed = {part: x if part == "weight_shape" else xp.asarray(x) for part, x in arrays.items()}
    read = reader.read(**placed, **options)
    weight, perm = read if isinstance(read, PermutedWeight) else (read, None)
    return Linear(*weight, k=reader.k(arrays), bias=bias_like(bias, weight.scales, xp), perm=perm)


def _all_eight(qzeros: np.ndarray) -> bool:
    return qzeros.dtype == np.int32 and bool((qzeros.view(np.uint32) == _EIGHTS).all())
