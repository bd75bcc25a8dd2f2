"""The demo's encoder: in float32 it is the model, and every linear layer of it can run in 4 bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.tiny_encoder import LAYERS

from cupy_w4a16.demo import linears
from cupy_w4a16.demo.encoder import LINEARS, Encoder
from cupy_w4a16.demo.linears import Float32Linears, Method
from cupy_w4a16.demo.model_files import Model
from cupy_w4a16.demo.sentences import SENTENCES

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


def float32_encoder(model: Model) -> Encoder:
    return Encoder(model.settings, model.weights, Float32Linears(model.weights), np)


def twin(model: Model, ids: list[int]) -> np.ndarray:
    """One sentence through the encoder in float64: no batch, no padding, one head and one token at a time."""
    w = {name: x.astype(np.float64) for name, x in model.weights.items()}

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        rows = [(row - row.mean()) / math.sqrt(row.var() + model.settings.norm_eps) for row in x]
        return np.stack(rows) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return np.stack([w[f"{name}.weight"] @ row + w[f"{name}.bias"] for row in x])

    x = np.stack(
        [
            w["embeddings.word_embeddings.weight"][token]
            + w["embeddings.position_embeddings.weight"][place]
            + w["embeddings.token_type_embeddings.weight"][0]
            for place, token in enumerate(ids)
        ]
    )
    x = norm("embeddings.LayerNorm", x)
    width = model.settings.hidden // model.settings.heads
    for block in range(model.settings.layers):
        name = f"encoder.layer.{block}"
        query, key, value = (linear(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for start in range(0, model.settings.hidden, width):
            head = slice(start, start + width)
            for i in range(len(ids)):
                weight = np.exp(key[:, head] @ query[i, head] / math.sqrt(width))
                mixed[i, head] = weight @ value[:, head] / weight.sum()
        x = norm(f"{name}.attention.output.LayerNorm", x + linear(f"{name}.attention.output.dense", mixed))
        up = linear(f"{name}.intermediate.dense", x)
        up = np.vectorize(lambda u: 0.5 * u * (1 + math.erf(u / math.sqrt(2))))(up)
        x = norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", up))
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_encoder_agrees_with_an_unpadded_float64_twin(tiny: Model) -> None:
    sentences = [SENTENCES[0], "Lentils.", SENTENCES[6]]  # of three lengths
    ids, mask = tiny.tokenize(sentences)
    assert len(set(mask.sum(axis=1))) == 3
    got = float32_encoder(tiny)(ids, mask)
    expected = [twin(tiny, list(row[real])) for row, real in zip(ids, mask, strict=True)]
    # Float32 through some thirty steps: a few dozen roundings of 6e-8, on components of at most 1.
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6)


def test_padding_gets_no_attention(tiny: Model) -> None:
    ids, mask = tiny.tokenize([SENTENCES[0], "Lentils."])
    encoder = float32_encoder(tiny)
    other = np.where(mask, ids, 7)
    assert (other != ids).any()
    np.testing.assert_array_equal(encoder(other, mask), encoder(ids, mask))


def test_float32_encoder_gives_the_published_similarities(real: Model) -> None:
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    embedded = float32_encoder(real)(*real.tokenize(sentences))
    # The similarities that Sentence Transformers' quickstart prints for all-MiniLM-L6-v2, to four digits.
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(embedded @ embedded.T, published, rtol=0, atol=6e-5)


def test_every_linear_layer_runs_through_gemm(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    gemm = linears.gemm

    def spy(a: np.ndarray, b_packed: np.ndarray, *others: object, **named: object) -> np.ndarray:
        seen.append(id(b_packed))
        assert a.dtype == np.float16
        assert b_packed.dtype == np.int32
        return gemm(a, b_packed, *others, **named)

    monkeypatch.setattr(linears, "gemm", spy)
    matrices = [n for n in tiny.weights if n.startswith("encoder.") and tiny.weights[n].ndim == 2]
    quantized = linears.QuantizedLinears(
        tiny.weights, [n.removesuffix(".weight") for n in matrices], Method()
    )
    Encoder(tiny.settings, tiny.weights, quantized, np)(*tiny.tokenize(list(SENTENCES)))
    # Every matrix of the transformer blocks is one of our linear layers, and each runs once.
    assert len(matrices) == LAYERS * len(LINEARS)
    assert len(seen) == len(set(seen)) == len(matrices)
