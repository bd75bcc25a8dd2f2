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
    """The same layers with 4-bit weights and float16 activations, through `gemm`.

    Weights are symmetric, but for `method="hqq"`, which is about zeros.
    """

    def __init__(
        self, weights: Mapping[str, Array], names: Iterable[str], group_size: int, method: str = "rtn"
    ) -> None:
        self.layers = {}
        symmetric = method != "hqq"
        for name in names:
            w = weights[f"{name}.weight"].T
            quantized = quantize(w, group_size, symmetric=symmetric, dtype="float16", method=method)
            self.layers[name] = (quantized, weights[f"{name}.bias"].astype("float16"))

    def half(self, name: str, x: Array) -> Array:
        """Apply a layer to float16 `x`; the result is float16."""
        quantized, bias = self.layers[name]
        return gemm(x, *quantized, bias=bias)

    def __call__(self, name: str, x: Array) -> Array:
        return self.half(name, x.astype("float16")).astype("float32")

    @property
    def nbytes(self) -> int:
        """The bytes of packed weights, scales and zeros; biases are not counted."""
        parts = (x for q, _ in self.layers.values() for x in (q.b_packed, q.scales, q.zeros))
        return sum(int(x.nbytes) for x in parts if x is not None)
