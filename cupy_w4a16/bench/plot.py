"""Time against the number of tokens, a panel a shape and kind: ours, cuBLAS, Humming, the floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .._config import GemmProblem
from .._plot_file import save_figure
from . import BenchError
from .report import Row, title

COLUMNS = 4


def save_plot(rows: Sequence[Row], path: str, heading: str) -> None:
    """Write the picture to `path`; its ending (.png, .svg, .pdf) is the format."""
    from matplotlib.figure import Figure  # no pyplot: no window system is looked for

    measured: dict[GemmProblem, list[Row]] = {}
    for row in rows:
        if not row.fault:
            measured.setdefault(replace(row.problem, m=0), []).append(row)
    if not measured:
        raise BenchError(f"--plot {path}: nothing was measured")
    columns = min(COLUMNS, len(measured))
    lines = -(-len(measured) // columns)
    figure: Any = Figure(figsize=(4.2 * columns, 3.6 * lines + 0.6), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (problem, found) in zip(panels, measured.items(), strict=False):
        _draw(panel, found)
        panel.set_title(title(problem).replace(", ", "\n", 1), fontsize=9)
    for panel in panels[len(measured) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=8, frameon=False)
    save_figure(figure, path, BenchError)


def _draw(panel: Any, rows: Sequence[Row]) -> None:
    """The fastest of ours at each number of tokens, and what it is compared with."""
    best: dict[GemmProblem, Row] = {}
    for row in sorted(rows, key=lambda row: -row.us):
        best[row.problem] = row
    found = sorted(best.values(), key=lambda row: row.problem.m)
    tokens = [row.problem.m for row in found]
    for label, attribute, style in (
        ("cuBLAS FP16", "cublas_us", {"color": "#777777", "marker": "s"}),
        ("Humming", "humming_us", {"color": "#e6550d", "marker": "^"}),
        ("cupy_w4a16", "us", {"color": "#08519c", "marker": "o"}),
        ("floor", "floor_us", {"color": "black", "linestyle": "--"}),
    ):
        times = [getattr(row, attribute) for row in found]
        if not all(map(math.isnan, times)):
            panel.plot(tokens, times, label=label, markersize=4, linewidth=1.3, **style)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlabel("tokens M", fontsize=9)
    panel.set_ylabel("µs a call", fontsize=9)
    panel.grid(True, which="major", alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
