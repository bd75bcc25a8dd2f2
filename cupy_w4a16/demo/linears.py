"""The encoder's linear layers, in float32 and in 4 bits: two functions `(name, x) -> y`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import QuantizedWeight, awq_scale, gemm, quantize
from .encoder import Array
from .model_files import DemoError


class Float32Linears:
    """The truth: `x @ w + bias` in float32."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights

    def __call__(self, name: str, x: Array) -> Array:
        # Checkpoints keep a linear layer's weight as (out features, in features).
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]


@dataclass(frozen=True)
class Method:
    """How to quantize: arguments of `quantize`, and whether activations have a say, by `awq_scale`.

    `name` is what `quantize` calls `method`.
    """

    group_size: int = 128
    name: str = "rtn"
    symmetric: bool = True
    awq: bool = False

    def __str__(self) -> str:
        return f"awq, {self.name}" if self.awq else self.name

    def __call__(self, w: Array, activations: Array | None) -> tuple[QuantizedWeight, Array | None]:
        """The weight for `gemm`, and what activations are divided by before (None: by nothing)."""
        options: dict[str, Any] = {"symmetric": self.symmetric, "dtype": "float16", "method": self.name}
        if self.awq:
            return awq_scale(w, activations, self.group_size, **options)
        return quantize(w, self.group_size, **options), None


class QuantizedLinears:
    """The same layers with 4-bit weights and float16 activations, through `gemm`.

    `activations` are what every layer gets for other sentences; only `awq` looks at them.
    """

    def __init__(
        self,
        weights: Mapping[str, Array],
        names: Iterable[str],
        method: Method,
        activations: Mapping[str, Array] | None = None,
    ) -> None:
        self.layers = {}
        for name in names:
            weight, scale = method(weights[f"{name}.weight"].T, activations and activations[name])
            self.layers[name] = (weight, scale, weights[f"{name}.bias"].astype("float16"))

    def half(self, name: str, x: Array) -> Array:
        """Apply a layer to float16 `x`; the result is float16."""
        weight, scale, bias = self.layers[name]
        return gemm(x if scale is None else x / scale, *weight, bias=bias)

    def __call__(self, name: str, x: Array) -> Array:
        return self.half(name, x.astype("float16")).astype("float32")

    @property
    def nbytes(self) -> int:
        """The bytes of packed weights, their scales and zeros, and `awq`'s scales; not those of biases."""
        parts = (x for w, scale, _ in self.layers.values() for x in (w.b_packed, w.scales, w.zeros, scale))
        return sum(int(x.nbytes) for x in parts if x is not None)


def quantized_linears(
    weights: Mapping[str, Array],
    names: Iterable[str],
    method: Method,
    activations: Mapping[str, Array] | None = None,
) -> QuantizedLinears:
    """`QuantizedLinears`, or a `DemoError` that says why not."""
    try:
        return QuantizedLinears(weights, names, method, activations)
    except (ValueError, ImportError) as error:  # a size that is not allowed, a weight with a NaN, no cuBLAS
        raise DemoError(f"these weights can't be quantized: {error}") from error
