"""A BERT sentence encoder in NumPy or CuPy: the same expressions for both.

The linear layers are a function that the encoder is given, `linear(name, x) -> y`, so that float32
and 4-bit layers share everything else: embeddings, layer norm, softmax, gelu and residuals, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .._activations import apply_activation
from .model_files import EncoderSettings

Array = Any  # a NumPy or a CuPy array
Linear = Callable[[str, Array], Array]

# A block's linear layers in the order of the data flow: our short name, and the checkpoint's.
LINEARS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attn out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}


def block_name(block: int) -> str:
    """Return the prefix of a block's tensors in the checkpoint."""
    return f"encoder.layer.{block}"


def linear_name(block: int, short: str) -> str:
    """Return the checkpoint's name of one linear layer, without `.weight`."""
    return f"{block_name(block)}.{LINEARS[short]}"


def linear_names(blocks: int) -> list[str]:
    """Return the checkpoint's names of all linear layers of so many blocks, in the order of the data flow."""
    return [linear_name(block, short) for block in range(blocks) for short in LINEARS]


class Encoder:
    """Sentences in, unit vectors out: transformer blocks, the mean over tokens, length one.

    `weights` are float32 arrays of `xp` (`numpy` or `cupy`) by their checkpoint names, `linear`
    applies a linear layer to `x (sentences, tokens, features)`, float32 in and out.
    """

    def __init__(
        self, settings: EncoderSettings, weights: Mapping[str, Array], linear: Linear, xp: Any
    ) -> None:
        self.settings, self.weights, self.linear, self.xp = settings, weights, linear, xp

    def hidden_states(self, ids: Array, mask: Array) -> list[Array]:
        """Return every block's output, (sentences, tokens, hidden) each, the embeddings' first."""
        states = [self._embed(ids)]
        # Padding gets no attention: exp of this is 0 in float32, and it stays finite.
        masked = self.xp.where(mask, 0.0, -1e9).astype("float32")[:, None, None, :]
        for block in range(self.settings.layers):
            states.append(self._block(block, states[-1], masked))
        return states

    def pool(self, state: Array, mask: Array) -> Array:
        """Return one unit vector a sentence, (sentences, hidden): the mean over real tokens, normalised."""
        weight = mask[:, :, None].astype("float32")
        mean = (state * weight).sum(axis=1) / weight.sum(axis=1)
        return mean / self.xp.sqrt((mean * mean).sum(axis=-1, keepdims=True))

    def __call__(self, ids: Array, mask: Array) -> Array:
        return self.pool(self.hidden_states(ids, mask)[-1], mask)

    def _embed(self, ids: Array) -> Array:
        words = self.weights["embeddings.word_embeddings.weight"][ids]
        positions = self.weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        kind = self.weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm("embeddings.LayerNorm", words + positions + kind)

    def _block(self, block: int, x: Array, masked: Array) -> Array:
        name = block_name(block)
        attended = self.linear(linear_name(block, "attn out"), self._attention(block, x, masked))
        x = self._norm(f"{name}.attention.output.LayerNorm", x + attended)
        up = self._gelu(self.linear(linear_name(block, "up"), x))
        return self._norm(f"{name}.output.LayerNorm", x + self.linear(linear_name(block, "down"), up))

    def _attention(self, block: int, x: Array, masked: Array) -> Array:
        sentences, tokens, hidden = x.shape
        heads = self.settings.heads

        def split(short: str) -> Array:  # (sentences, heads, tokens, hidden / heads)
            y = self.linear(linear_name(block, short), x)
            return y.reshape(sentences, tokens, heads, hidden // heads).transpose(0, 2, 1, 3)

        query, key, value = split("query"), split("key"), split("value")
        scores = query @ key.transpose(0, 1, 3, 2) / (hidden // heads) ** 0.5 + masked
        scores = self.xp.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        return mixed.transpose(0, 2, 1, 3).reshape(sentences, tokens, hidden)

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        unit = centred / self.xp.sqrt(variance + self.settings.norm_eps)
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _gelu(self, x: Array) -> Array:
        return apply_activation(self.xp, x, "gelu").astype("float32")
