"""A sentence encoder on disk with random weights: small, and otherwise as the demo's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cupy_w4a16.demo.encoder import LINEARS, linear_name
from cupy_w4a16.demo.sentences import SENTENCES

HIDDEN, HEADS, LAYERS, FEED_FORWARD = 128, 4, 2, 256
WORDS = sorted({word.strip(".,").lower() for sentence in SENTENCES for word in sentence.split()})


def write_tiny_encoder(folder: Path) -> None:
    """Two layers, 128 features, a vocabulary of the demo's sentences' words."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    random = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {}

    def add(name: str, shape: tuple[int, ...], mean: float = 0.0, spread: float = 0.1) -> None:
        weights[name] = (mean + spread * random.standard_normal(shape)).astype(np.float32)

    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS]
    for kind, rows in (("word", len(vocabulary)), ("position", 64), ("token_type", 2)):
        add(f"embeddings.{kind}_embeddings.weight", (rows, HIDDEN), spread=1.0)
    norms = ["embeddings.LayerNorm"]
    for block in range(LAYERS):
        for short in LINEARS:
            wide_in, wide_out = short == "down", short == "up"
            name = linear_name(block, short)
            add(f"{name}.weight", (FEED_FORWARD if wide_out else HIDDEN, FEED_FORWARD if wide_in else HIDDEN))
            add(f"{name}.bias", (FEED_FORWARD if wide_out else HIDDEN,))
        norms += [
            f"encoder.layer.{block}.attention.output.LayerNorm",
            f"encoder.layer.{block}.output.LayerNorm",
        ]
    for name in norms:
        add(f"{name}.weight", (HIDDEN,), mean=1.0)
        add(f"{name}.bias", (HIDDEN,))
    save_file(weights, folder / "model.safetensors")

    config = {"model_type": "bert", "hidden_act": "gelu", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN}
    config |= {"num_attention_heads": HEADS, "layer_norm_eps": 1e-12, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
