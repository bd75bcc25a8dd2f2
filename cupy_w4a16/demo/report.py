"""Print what the demo measured, as plain tables."""

from __future__ import annotations

import numpy as np

from .._printing import named_lines
from .encoder import LINEARS
from .measure import Comparison

NEAREST = 3  # how many neighbours a sentence's line shows


def format_report(result: Comparison, facts: dict[str, str]) -> str:
    """Return the whole report; `facts` are the lines that say what ran where."""
    return "\n".join([format_facts(facts), "", _sentences(result), _layers(result), _memory(result)])


def format_facts(facts: dict[str, str]) -> str:
    """Return the head of a report."""
    title = "Sentence encoder: every linear layer in 4 bits, beside float32"
    return "\n  ".join([title, *named_lines(facts)])


def _sentences(result: Comparison) -> str:
    near, near_4bit = result.nearest, result.nearest_4bit
    lines = ["Sentences: cosine similarity to the float32 encoder, and the nearest others, nearest first"]
    shown = min(NEAREST, near.shape[1])
    column = max(3 * shown, len("float32"))
    lines.append(f"{'':>4}  {'cosine':>6}  {'float32':<{column}}  {'4 bits':<{column}}  sentence")
    for i, sentence in enumerate(result.sentences):
        ours, theirs = (" ".join(f"{j + 1:2d}" for j in order[i, :shown]) for order in (near, near_4bit))
        text = sentence if len(sentence) <= 72 else sentence[:69] + "..."
        lines.append(f"{i + 1:>4}  {result.cosine[i]:6.4f}  {ours:<{column}}  {theirs:<{column}}  {text}")
    lines.append(
        f"Cosine: mean {result.cosine.mean():.4f}, smallest {result.cosine.min():.4f}. "
        f"The same nearest sentence for {result.same_nearest} of {len(near)}."
    )
    lines.append(f"Rank correlation (Spearman) of all pairs' similarities: {result.rank_correlation:.4f}.")
    return "\n".join(lines) + "\n"


def _layers(result: Comparison) -> str:
    sentences, tokens = result.padded_shape
    columns = [*LINEARS, "hidden state"]
    lines = [
        "Layers: relative error in % of each linear layer (the same inputs to both) and of the hidden state",
        f"(all errors up to there); time of a layer's {len(LINEARS)} products, called one after another,",
        f"at {sentences} x {tokens} = {sentences * tokens} tokens in ms",
        f"{'layer':>6}"
        + "".join(f"{c:>{_width(c)}}" for c in columns)
        + f"{'4 bits':>11}{result.baseline:>16}",
    ]
    errors = 100 * np.column_stack([result.linear_error, result.hidden_error])
    for i, row in enumerate(errors):
        cells = "".join(f"{e:>{_width(c)}.2f}" for c, e in zip(columns, row, strict=True))
        lines.append(
            f"{i + 1:>6}{cells}{1e3 * result.seconds_4bit[i]:>11.3f}{1e3 * result.seconds_baseline[i]:>16.3f}"
        )
    return "\n".join(lines) + "\n"


def _width(heading: str) -> int:
    return max(len(heading), 5) + 2


def _memory(result: Comparison) -> str:
    float32, float16 = 4 * result.linear_weights, 2 * result.linear_weights
    lines = [f"Weight memory of the {result.linear_error.size} linear layers in MB"]
    for name, count in (("float32", float32), ("float16", float16), ("4 bits", result.bytes_4bit)):
        lines.append(f"  {name:<8}{count / 1e6:7.2f}")
    lines[-1] += (
        f"  with scales and zeros: 1/{float32 / result.bytes_4bit:.2f} of float32, "
        f"1/{float16 / result.bytes_4bit:.2f} of float16"
    )
    lines.append(f"  Embeddings, norms and biases stay float32: {result.bytes_other / 1e6:.2f}.")
    return "\n".join(lines)
