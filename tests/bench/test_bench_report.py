"""The floor, the table, the file, the picture."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.bench import LARGE, PROBLEM, SMALL, row_of

from cupy_w4a16._config import GemmConfig
from cupy_w4a16.bench import BenchError, report
from cupy_w4a16.bench.floor import Floor
from cupy_w4a16.bench.report import Row


def test_floor_is_the_larger_of_reading_and_arithmetic() -> None:
    floor = Floor(read_us=4.0, tflops=500.0)
    assert floor.us(1, 4096, 4096) == 4.0
    assert floor.us(8192, 4096, 4096) == pytest.approx(2 * 8192 * 4096 * 4096 / 500e12 * 1e6)


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


def test_plot_has_a_panel_a_shape(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from cupy_w4a16.bench.plot import save_plot

    points = [replace(PROBLEM, m=m, n=n) for n in (4096, 8192) for m in (1, 16, 256)]
    rows = [row_of(8.0 + problem.m, problem=problem) for problem in points]
    save_plot(rows, str(tmp_path / "a.svg"), "title")
    text = (tmp_path / "a.svg").read_text()
    assert text.count('id="axes_') == 2
    with pytest.raises(BenchError, match="nothing was measured"):
        save_plot([Row.failed(PROBLEM, "gemm", LARGE, "wrong")], str(tmp_path / "b.svg"), "title")
