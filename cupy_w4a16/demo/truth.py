"""The float32 encoder's run over some sentences: what the 4-bit layers are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .encoder import Array, Encoder, Linear, linear_names
from .linears import Float32Linears
from .model_files import Model


class Truth:
    """Hidden states and embeddings of `sentences` in float32, and what every linear layer was given.

    `weights` are the model's, on `xp` (`numpy` or `cupy`).
    """

    def __init__(self, model: Model, weights: Mapping[str, Array], sentences: list[str], xp: Any) -> None:
        self.model, self.weights, self.xp = model, weights, xp
        self.names = linear_names(model.settings.layers)
        self.ids, self.mask = (xp.asarray(x) for x in model.tokenize(sentences))
        self.inputs: dict[str, Array] = {}  # (sentences, tokens, features) each
        self._exact = Float32Linears(weights)
        self.states = self.encoder(self._recorded).hidden_states(self.ids, self.mask)
        self.embedded = self.encoder(self._exact).pool(self.states[-1], self.mask)

    def encoder(self, linear: Linear) -> Encoder:
        """The same encoder with other linear layers."""
        return Encoder(self.model.settings, self.weights, linear, self.xp)

    def activations(self) -> dict[str, Array]:
        """What every linear layer was given, (tokens, features) each, without padding."""
        return {name: x[self.mask] for name, x in self.inputs.items()}

    def linear_errors(self, linear: Linear) -> list[float]:
        """The relative error of every linear layer's output, given the inputs that it gets in float32."""
        return [self.relative_error(linear(n, x), self._exact(n, x)) for n, x in self.inputs.items()]

    def relative_error(self, x: Array, exact: Array) -> float:
        """The norm of the error over the norm of what is exact, padding left out."""
        exact = exact[self.mask].astype("float64")
        difference = x[self.mask].astype("float64") - exact
        return float(((difference * difference).sum() / (exact * exact).sum()) ** 0.5)

    def _recorded(self, name: str, x: Array) -> Array:
        self.inputs[name] = x
        return self._exact(name, x)
