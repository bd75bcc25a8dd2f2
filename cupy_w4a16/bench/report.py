"""Rows of the benchmark as aligned lines and as CSV."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from .._config import GemmConfig, GemmProblem
from .._dtypes import ITEM_BYTES
from . import BenchError
from .floor import Floor
from .shapes import geometric_mean
from .timing import Timing

NAN = math.nan


@dataclass(frozen=True)
class Row:
    """One variant at one point; times in µs; `x_cublas` above 1 is faster than cuBLAS."""

    problem: GemmProblem
    name: str
    config: GemmConfig
    us: float = NAN
    low_us: float = NAN
    high_us: float = NAN
    tflops: float = NAN
    gb_per_s: float = NAN
    x_cublas: float = NAN
    x_floor: float = NAN
    floor_us: float = NAN
    read_us: float = NAN
    cublas_us: float = NAN
    humming_us: float = NAN
    calls: int = 0
    rounds: int = 0
    sm_mhz: int | None = None
    power_w: float | None = None
    resident: int = 0  # CTAs that an SM holds at once
    fault: str = ""

    @classmethod
    def measured(
        cls,
        problem: GemmProblem,
        name: str,
        config: GemmConfig,
        timing: Timing,
        floor: Floor,
        peers_us: Mapping[str, float],
        set_bytes: int,
        resident: int,
    ) -> Row:
        """The row of a timing; `peers_us` are the peers' times by name, `set_bytes` those of one weight set.

        cuBLAS is the faster of the layouts that were timed.
        """
        m, n, k = problem.m, problem.n, problem.k
        cublas = [peers_us[peer] for peer in ("cublas", "cublas-nk") if peer in peers_us]
        cublas_us = min(cublas, default=NAN)
        moved = set_bytes + 2 * m * k + ITEM_BYTES[problem.out_dtype] * m * n
        floor_us = floor.us(m, n, k)
        return cls(
            problem, name, config, timing.us, timing.low_us, timing.high_us,
            tflops=2e-6 * m * n * k / timing.us, gb_per_s=moved / timing.us / 1e3,
            x_cublas=cublas_us / timing.us, x_floor=timing.us / floor_us,
            floor_us=floor_us, read_us=floor.read_us,
            cublas_us=cublas_us, humming_us=peers_us.get("humming", NAN),
            calls=timing.calls, rounds=timing.rounds, sm_mhz=timing.sm_mhz, power_w=timing.power_w,
            resident=resident,
        )  # fmt: skip

    @classmethod
    def failed(cls, problem: GemmProblem, name: str, config: GemmConfig, fault: str) -> Row:
        return cls(problem, name, config, fault=fault)


@dataclass(frozen=True)
class Column:
    """A column of the printed table."""

    title: str
    width: int
    cell: Callable[[Row], str]


def _number(attribute: str, digits: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = getattr(row, attribute)
        return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"

    return cell


COLUMNS = (
    Column("M", 6, lambda row: str(row.problem.m)),
    Column("µs", 10, _number("us", 2)),
    Column("TFLOPS", 8, _number("tflops", 1)),
    Column("GB/s", 7, _number("gb_per_s", 0)),
    Column("x cuBLAS", 10, _number("x_cublas", 3)),
    Column("x floor", 9, _number("x_floor", 3)),
    Column("cuBLAS µs", 11, _number("cublas_us", 2)),
    Column("Humming µs", 12, _number("humming_us", 2)),
    Column("floor µs", 10, _number("floor_us", 2)),
    Column("SM MHz", 8, _number("sm_mhz", 0)),
)


def header() -> str:
    """The line above the rows of a shape."""
    return "".join(column.title.rjust(column.width) for column in COLUMNS) + "  kernel"


def format_row(row: Row) -> str:
    """One aligned line; what failed says why instead."""
    what = f"{row.name}: {row.config.name}"
    if row.fault:
        return f"{row.problem.m:>6}  {what} {row.fault}"
    return "".join(column.cell(row).rjust(column.width) for column in COLUMNS) + f"  {what}"


def title(problem: GemmProblem) -> str:
    """What the rows of a shape have in common.

    >>> title(GemmProblem(1, 4096, 4096))
    'N=4096 K=4096, groups of 128, float16'
    """
    return f"N={problem.n} K={problem.k}, {kind(problem)}"


def kind(problem: GemmProblem) -> str:
    """What a product is but for its sizes.

    >>> kind(GemmProblem(1, 4096, 4096, 64, zeros="uint8"))
    'groups of 64, float16, uint8 zeros'
    """
    group = "one group" if problem.group_size == -1 else f"groups of {problem.group_size}"
    zeros = "" if problem.zeros is None else f", {problem.zeros} zeros"
    out = "" if problem.out_dtype == problem.dtype else f", {problem.out_dtype} result"
    return f"{group}, {problem.dtype}{zeros}{out}"


def format_summary(rows: Sequence[Row]) -> str:
    """Per kind and number of tokens, over the shapes, the best variant of each: mean and worst ratios."""
    best: dict[GemmProblem, Row] = {}
    for row in rows:
        if not row.fault and (row.problem not in best or row.us < best[row.problem].us):
            best[row.problem] = row
    titles = f"{'M':>6}{'shapes':>8}{'x cuBLAS, mean':>16}{'least':>8}{'x floor, mean':>15}{'most':>8}"
    lines = []
    for what in dict.fromkeys(map(kind, best)):
        lines += ["", f"Over the shapes, {what}", titles]
        of_kind = {problem: row for problem, row in best.items() if kind(problem) == what}
        for m in sorted({problem.m for problem in of_kind}):
            found = [row for problem, row in of_kind.items() if problem.m == m]
            cublas, floor = [row.x_cublas for row in found], [row.x_floor for row in found]
            lines.append(
                f"{m:>6}{len(found):>8}{geometric_mean(cublas):>16.3f}{min(cublas):>8.3f}"
                f"{geometric_mean(floor):>15.3f}{max(floor):>8.3f}"
            )
    return "\n".join(lines)


_CONFIG_FIELDS = tuple(GemmConfig.__dataclass_fields__)
_PROBLEM_FIELDS = tuple(GemmProblem.__dataclass_fields__)
_ROW_FIELDS = tuple(f.name for f in fields(Row) if f.name not in ("problem", "config"))
CSV_COLUMNS = (*_PROBLEM_FIELDS, *_ROW_FIELDS, "config", *_CONFIG_FIELDS)


@contextlib.contextmanager
def csv_writer(path: str | None) -> Iterator[Callable[[Row], None]]:
    """A function that appends a row to the file and flushes it; it does nothing where `path` is None."""
    if path is None:
        yield lambda row: None
        return
    try:
        file = Path(path).open("w", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BenchError(f"--csv {path}: {error}") from error
    with file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)

        def write(row: Row) -> None:
            writer.writerow(csv_cells(row))
            file.flush()  # what was measured survives an interrupted run

        yield write


def csv_cells(row: Row) -> list[object]:
    """The cells of a row under `CSV_COLUMNS`; what is unknown is empty."""
    cells = [
        *(getattr(row.problem, name) for name in _PROBLEM_FIELDS),
        *(getattr(row, name) for name in _ROW_FIELDS),
        row.config.name,
        *(getattr(row.config, name) for name in _CONFIG_FIELDS),
    ]
    return [_csv_cell(cell) for cell in cells]


def _csv_cell(cell: object) -> object:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.6g}"
    return "" if cell is None else cell
