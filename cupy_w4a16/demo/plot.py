"""Draw what the demo measured: three similarity pictures and the error of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._plot_file import save_figure
from .encoder import LINEARS
from .model_files import DemoError

if TYPE_CHECKING:
    from .measure import Comparison

SHORTENED = 52  # characters of a sentence beside the first matrix


def save_plot(result: Comparison, path: str, title: str) -> None:
    """Write the picture to `path`; the ending (.png, .svg, .pdf) is the format."""
    from matplotlib.figure import Figure  # no pyplot: no window system is looked for

    figure: Any = Figure(figsize=(15, 8), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    _draw_similarity(top, result)
    _draw_errors(bottom, result)
    save_figure(figure, path, DemoError)


def _draw_similarity(figure: Any, result: Comparison) -> None:
    axes = figure.subplots(1, 3)
    difference = result.similarity_4bit - result.similarity
    largest = max(float(np.abs(difference).max()), 1e-6)
    panels = (
        ("float32 encoder", result.similarity, {"cmap": "viridis", "vmin": 0, "vmax": 1}),
        ("4-bit encoder", result.similarity_4bit, {"cmap": "viridis", "vmin": 0, "vmax": 1}),
        ("4-bit minus float32", difference, {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}),
    )
    count = len(result.sentences)
    ticks = range(0, count, max(1, count // 24))  # a long list gets fewer labels, not unreadable ones
    sentences = [f"{_shorten(result.sentences[i])}  {i + 1}" for i in ticks]
    for axis, (title, matrix, style) in zip(axes, panels, strict=True):
        image = axis.imshow(matrix, **style)
        axis.set_title(title, fontsize=11)
        axis.set_xticks(ticks, [str(i + 1) for i in ticks], fontsize=8)
        axis.set_yticks(ticks, sentences if axis is axes[0] else [str(i + 1) for i in ticks], fontsize=8)
        axis.tick_params(length=0)
        if axis is not axes[0]:  # the first two share their colours
            figure.colorbar(
                image, ax=axis, shrink=0.85, label="cosine similarity" if axis is axes[1] else "difference"
            )


def _draw_errors(figure: Any, result: Comparison) -> None:
    axis = figure.subplots()
    blocks = np.arange(len(result.hidden_error))
    width = 0.8 / len(LINEARS)
    colours = (
        "#9ecae1",
        "#6baed6",
        "#3182bd",
        "#08519c",
        "#fdae6b",
        "#e6550d",
    )  # attention blue, feed-forward orange
    for i, (name, colour) in enumerate(zip(LINEARS, colours, strict=True)):
        offset = (i - (len(LINEARS) - 1) / 2) * width
        axis.bar(blocks + offset, 100 * result.linear_error[:, i], 0.9 * width, color=colour, label=name)
    axis.plot(blocks, 100 * result.hidden_error, "ko-", markersize=4, label="hidden state (accumulated)")
    axis.set_title(
        "Relative error of each layer's output (linear layers: the same inputs to both)", fontsize=11
    )
    axis.set_xticks(blocks, [f"layer {i + 1}" for i in blocks])
    axis.set_ylabel("relative error, %")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _shorten(sentence: str) -> str:
    return sentence if len(sentence) <= SHORTENED else sentence[: SHORTENED - 3].rstrip() + "..."
