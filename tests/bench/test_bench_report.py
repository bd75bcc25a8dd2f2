"""The floor, the table, the file, the picture."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.bench import LARGE, PROBLEM, SMALL, row_of

from cupy_w4a16._config import GemmConfig
from cupy_w4a16._plot_file import save_figure
from cupy_w4a16.bench import BenchError, plot, report
from cupy_w4a16.bench.floor import Floor
from cupy_w4a16.bench.report import Row


def test_row_arithmetic() -> None:
    row = row_of(8.0, cublas=16.0, cublas_nk=14.0, humming=10.0)
    assert row.x_cublas == 14.0 / 8.0  # the faster layout counts
    assert (row.x_floor, row.humming_us) == (2.0, 10.0)
    assert row.tflops == pytest.approx(2 * 16 * 4096 * 4096 / 8e-6 / 1e12)
    assert row.gb_per_s == pytest.approx((8_650_752 + 2 * 16 * 4096 * 2) / 8e-6 / 1e9)


def test_lines_align_with_their_header() -> None:
    ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", report.header())][:-1]
    for row in (row_of(8.0), row_of(11483.9, cublas=11580.9, humming=12056.4), row_of(4.95, cublas=16.5)):
        line = report.format_row(row)
        assert [match.end() for match in re.finditer(r"\S+", line)][: len(ends)] == ends


def test_line_of_a_refused_variant_says_why() -> None:
    line = report.format_row(Row.failed(PROBLEM, "linear", LARGE, "refused: too large"))
    assert line.split() == ["16", "linear:", LARGE.name, "refused:", "too", "large"]


def test_summary_takes_the_best_variant_of_each_shape() -> None:
    other = replace(PROBLEM, n=8192)
    rows = [
        row_of(8.0, cublas=16.0),
        row_of(9.0, SMALL, cublas=16.0),
        row_of(4.0, problem=other, cublas=32.0),
        Row.failed(other, SMALL.name, SMALL, "wrong"),
    ]
    m, count, mean, least, floor, most = report.format_summary(rows).splitlines()[-1].split()
    assert (m, count, mean, least) == ("16", "2", "4.000", "2.000")  # sqrt(2 * 8)
    assert (float(floor), float(most)) == (pytest.approx(math.sqrt(2 * 1), abs=1e-3), 2.0)


def test_summary_does_not_mix_kinds_of_weights() -> None:
    rows = [row_of(8.0, problem=replace(PROBLEM, group_size=size), cublas=16.0) for size in (128, 32)]
    lines = report.format_summary(rows).splitlines()
    assert [line for line in lines if "Over" in line] == [
        "Over the shapes, groups of 128, float16",
        "Over the shapes, groups of 32, float16",
    ]
    assert [line.split()[:2] for line in lines if line.startswith("    16")] == [["16", "1"], ["16", "1"]]


def test_csv_keeps_what_was_measured_when_the_run_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with report.csv_writer(str(path)) as write:
        write(row_of(8.0))
        write(Row.failed(PROBLEM, SMALL.name, SMALL, "refused: because"))
        assert len(path.read_text().splitlines()) == 3  # flushed, before the file is closed
    with path.open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["m"], good["n"], good["us"], good["tile_n"], good["fault"]) == ("16", "4096", "8", "128", "")
    assert (bad["us"], bad["tile_n"], bad["fault"]) == ("", "64", "refused: because")
    assert GemmConfig(int(good["tile_n"]), int(good["tile_m"]), schedule=good["schedule"]) == LARGE


def test_unwritable_csv_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--csv"), report.csv_writer(str(tmp_path / "none" / "rows.csv")):
        pass


def test_plot_has_a_panel_a_shape_and_kind_with_all_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    figures: list[Any] = []

    def save(figure: Any, *arguments: Any) -> None:
        figures.append(figure)
        save_figure(figure, *arguments)

    monkeypatch.setattr(plot, "save_figure", save)
    shapes = [(4096, 128), (8192, 128), (8192, 32)]  # n, group_size
    points = [replace(PROBLEM, m=m, n=n, group_size=size) for n, size in shapes for m in (16, 1, 256)]
    rows = [row_of(8.0 + p.m, problem=p, cublas=9.0 + p.m, humming=10.0 + p.m) for p in points]
    rows += [row_of(7.0 + p.m, SMALL, p, cublas=9.0 + p.m, humming=10.0 + p.m) for p in points]  # the better
    plot.save_plot(rows, str(tmp_path / "a.svg"), "heading")
    assert (tmp_path / "a.svg").read_text().count('id="axes_') == 3
    for panel, (n, size) in zip(figures[0].axes, shapes, strict=True):
        assert panel.get_title() == f"N={n} K=4096\ngroups of {size}, float16"
        drawn = {line.get_label(): line for line in panel.get_lines()}
        assert all(list(line.get_xdata()) == [1, 16, 256] for line in drawn.values())
        floors = [Floor(4.0, 700.0).us(m, n, 4096) for m in (1, 16, 256)]
        assert {label: list(line.get_ydata()) for label, line in drawn.items()} == {
            "cuBLAS FP16": [10, 25, 265],
            "Humming": [11, 26, 266],
            "cupy_w4a16": [8, 23, 263],
            "floor": floors,
        }
    legend = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert legend == ["cuBLAS FP16", "Humming", "cupy_w4a16", "floor"]
    with pytest.raises(BenchError, match="nothing was measured"):
        plot.save_plot([Row.failed(PROBLEM, "gemm", LARGE, "wrong")], str(tmp_path / "b.svg"), "title")
