"""A checkpoint that is a GGUF file: Q4_0 and Q4_1 tensors as layers, the others as plain arrays."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .._dtypes import BFLOAT16
from ..formats import from_gguf, open_gguf
from ..formats._gguf_header import check_gguf_header
from ..linear import Linear
from .bias import bias_like

_WEIGHT, _BIAS = ".weight", ".bias"
_LAYERS = ("Q4_0", "Q4_1")
_PLAIN = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")


class GgufCheckpoint:
    """Layers and plain arrays of a GGUF file. Its header is read here, tensors by `read`."""

    def __init__(self, path: Path, xp: ModuleType = np, dequantize: bool = False) -> None:
        self._path, self._xp, self._dequantize = path, xp, dequantize
        self.tensors = open_gguf(path)
        files = check_gguf_header(path)
        if files > 1:  # the file's name need not say so
            raise ValueError(
                f"{path} is one of {files} parts of a GGUF model, by its split.count: join them "
                "(llama-gguf-split --merge)"
            )
        #: By name of a layer or plain array, its tensors: the weight's and a bias's.
        self.parts: dict[str, list[str]] = {}
        layers = {name: name.removesuffix(_WEIGHT) for name in self.tensors if self._type(name) in _LAYERS}
        biases = {f"{base}{_BIAS}" for name, base in layers.items() if name.endswith(_WEIGHT)}
        for name in self.tensors:
            base = layers.get(name, name)
            if name in biases:
                continue
            if base in self.parts:
                raise ValueError(f"{path} has both a tensor {base!r} and a quantized layer of that name")
            bias = f"{base}{_BIAS}"
            has_bias = base != name and bias in self.tensors
            self.parts[base] = [name, bias] if has_bias else [name]
        self.names = list(self.parts)
        self.format = "GGUF"

    def check(self, names: list[str]) -> None:
        """ValueError for one of `names` that `read` can't serve: said before anything is read."""
        for name in names:
            tensor, *bias = self.parts[name]
            kind, shape = self._type(tensor), tuple(int(size) for size in self.tensors[tensor].shape)
            if kind in _LAYERS and len(shape) != 2:
                raise ValueError(
                    f"{self._path}: tensor {tensor!r} is {kind} of shape {shape}: served is (k, n); leave "
                    "it out by names=, and pass experts one by one to from_gguf"
                )
            if kind not in (*_LAYERS, *_PLAIN) and not self._dequantize:
                raise ValueError(
                    f"{self._path}: tensor {tensor!r} is {kind}: served are {', '.join(_LAYERS)} and, as "
                    f"plain arrays, {', '.join(_PLAIN)}; pass dequantize=True to get it as float32, or leave "
                    "it out by names="
                )
            for each in bias:
                if self._type(each) not in _PLAIN:
                    raise ValueError(f"{self._path}: bias {each!r} is {self._type(each)}, no plain array")

    def read(self, name: str) -> Any:
        """A `Linear`, or a plain array."""
        xp = self._xp
        tensor, *bias = self.parts[name]
        if self._type(tensor) not in _LAYERS:
            return xp.asarray(self._plain(tensor))
        found = self.tensors[tensor]
        try:
            # A copy: what lies on the disk is read once, here, and not during the work on it.
            weight = from_gguf(
                xp.asarray(np.array(found.data)).reshape(-1), self._type(tensor), found.shape.tolist()
            )
            added = bias_like(self._plain(bias[0]), weight.scales, xp) if bias else None
            return Linear(*weight, k=int(found.shape[0]), bias=added)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self._path}: layer {name!r} (GGUF): {error}") from error

    def _type(self, name: str) -> str:
        return str(self.tensors[name].tensor_type.name)

    def _plain(self, name: str) -> np.ndarray:
        data, kind = self.tensors[name].data, self._type(name)
        if kind == "BF16":
            return np.array(data).view(BFLOAT16)
        if kind in _PLAIN:
            return np.array(data)
        from gguf.quants import dequantize

        try:
            return np.asarray(dequantize(data, self.tensors[name].tensor_type), np.float32)
        except NotImplementedError as error:
            raise ValueError(
                f"{self._path}: tensor {name!r} is {kind}, which gguf can't dequantize"
            ) from error
