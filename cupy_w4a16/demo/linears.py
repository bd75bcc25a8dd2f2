"""The encoder's linear layers, in float32 and in 4 bits: two functions `(name, x) -> y`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .. import gemm, quantize
from .encoder import Array


class Float32Linears:
    """The truth: `x @ w + bias` in float32."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights

    def __call__(self, name: str, x: Array) -> Array:
        # Checkpoints keep a linear layer's weight as (out features, in features).
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]


class QuantizedLinears:
    """The same layers with 4-bit weights and float16 activations, through `gemm`."""

    def __init__(self, weights: Mapping[str, Array], names: Iterable[str], group_size: int) -> None:
        self.layers = {}
        for name in names:
            quantized = quantize(weights[f"{name}.weight"].T, group_size, dtype="float16")
            self.layers[name] = (quantized, weights[f"{name}.bias"].astype("float16"))

    def half(self, name: str, x: Array) -> Array:
        """Apply a layer to float16 `x`; the result is float16."""
        quantized, bias = self.layers[name]
        return gemm(x, *quantized, bias=bias)

    def __call__(self, name: str, x: Array) -> Array:
        return self.half(name, x.astype("float16")).astype("float32")

    @property
    def nbytes(self) -> int:
        """The bytes of packed weights and scales; biases are not counted."""
        return sum(int(q.b_packed.nbytes) + int(q.scales.nbytes) for q, _ in self.layers.values())
