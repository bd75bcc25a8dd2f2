"""Every variant at every point: checked, captured, interleaved with cuBLAS, one `Row` each."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cupy

from .. import _dtypes
from .._config import GemmProblem
from .._errors import CompileError, W4A16Error
from .._occupancy import resident_ctas
from . import BenchError, HangError, device, machine, timing
from .cublas import Blas
from .floor import Floor, read_us
from .report import Row, title
from .shapes import calls_for, estimated_us
from .timing import Replay, Timing
from .variants import Point, Variant, cublas_variant
from .weights import Weights

# Where cuBLAS reaches its best rates.
CALIBRATION = GemmProblem(8192, 8192, 8192), GemmProblem(8192, 4096, 14336)
FIRST_LOOK_WORK_US, FIRST_LOOK_ROUNDS = 1000.0, 3
BATCH = 32  # variants whose graphs are kept at once
FINALISTS, FINALIST_MARGIN = 8, 1.10  # of a first look: so many at most, none slower than the best times this


@dataclass(frozen=True)
class Procedure:
    """How to measure, and how thoroughly.

    `rounds` replays of `work_us` of work each count. More than `first_look` variants at one point (None:
    never) go through a short round first, and the `FINALISTS` best of them through the long one. Before each
    replay the GPU rests, `rest` times as long as it takes: back to back, large products reach the power
    limit, and the clock falls. `burst` times bursts of 0.1 s without rests instead.
    """

    rounds: int = 7
    work_us: float = 5000.0
    first_look: int | None = 12
    rest: float = 3.0
    burst: bool = False
    seed: int = 0

    @property
    def state(self) -> str:
        """What such times are of, in words."""
        if self.burst:
            return f"a hot GPU: bursts of {timing.BURST_MS / 1e3:g} s, no rests"
        if self.rest:
            return f"a cool GPU: a rest of {self.rest:g} x its time before each graph"
        return "a hot GPU: graphs back to back, no rests"


@dataclass
class Progress:
    """Where the best rate of cuBLAS so far, and what is told to the caller, are kept."""

    tflops: float
    on_row: Callable[[Row], None]
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.on_row(row)


Variants = Sequence[Variant] | Callable[[GemmProblem], Sequence[Variant]]


def sweep(
    points: Iterable[GemmProblem],
    variants: Variants,
    *,
    peers: Sequence[Variant] | None = None,
    procedure: Procedure | None = None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Time every variant at every point on the current GPU and return a row for each.

    Parameters
    ----------
    points : problems; neighbours that differ in `m` only share their weights
    variants : what to time; or a function of the problem
    peers : what to compare with, interleaved; None means cuBLAS. Their times are columns, not rows.
    procedure : how, and how thoroughly
    on_row : called with each row as soon as it is known

    A variant that is refused, does not compile or is wrong gives a row with `fault` and no time. Rows come
    in the order of the variants; where there was a first look, fastest first.
    """
    procedure = procedure or Procedure()
    peers = [cublas_variant()] if peers is None else peers
    stream = cupy.cuda.Stream(non_blocking=True)
    with machine.watched(), stream, Blas(stream) as blas:
        tflops = max(_cublas_tflops(problem, blas, stream, procedure) for problem in CALIBRATION)
        progress = Progress(tflops, on_row)
        for _, group in itertools.groupby(points, key=lambda problem: replace(problem, m=0)):
            _sweep_shape(list(group), variants, peers, procedure, blas, stream, progress)
            cupy.get_default_memory_pool().free_all_blocks()
    return progress.rows


def _sweep_shape(
    problems: Sequence[GemmProblem],
    variants: Variants,
    peers: Sequence[Variant],
    procedure: Procedure,
    blas: Blas,
    stream: Any,
    progress: Progress,
) -> None:
    weights = Weights(replace(problems[0], m=max(problem.m for problem in problems)), seed=procedure.seed)
    read = read_us(weights, stream, procedure.seed, procedure.rest)
    for problem in problems:
        out = cupy.empty((problem.m, problem.n), _dtypes.dtype_of(problem.out_dtype, _dtypes.OUT_DTYPES))
        point = Point(problem, weights, weights.a[: problem.m], out, stream, blas)
        ours = list(variants(problem) if callable(variants) else variants)
        measured, faults = _measure(point, ours, peers, procedure)
        theirs = {peer.name: measured[peer].us for peer in peers if peer in measured}
        flops = 2e-6 * problem.m * problem.n * problem.k
        for name in ("cublas", "cublas-nk"):
            if name in theirs:
                progress.tflops = max(progress.tflops, flops / theirs[name])
        floor = Floor(read, progress.tflops)
        for peer in peers:
            if peer in faults:
                print(f"{peer.name} left out at M={problem.m}, {faults[peer]}", file=sys.stderr)
        if procedure.first_look is not None and len(ours) > procedure.first_look:
            ours.sort(key=lambda variant: measured[variant].us if variant in measured else math.inf)
        for variant in ours:
            config = variant.config_for(problem)
            if variant in measured:
                row = Row.measured(
                    problem, variant.name, config, measured[variant], floor, theirs,
                    set_bytes=weights.sets[0].nbytes, resident=resident_ctas(variant.kernel_for(problem)),
                )  # fmt: skip
            else:
                row = Row.failed(problem, variant.name, config, faults[variant])
            progress.add(row)


def _measure(
    point: Point, ours: Sequence[Variant], peers: Sequence[Variant], procedure: Procedure
) -> tuple[dict[Variant, Timing], dict[Variant, str]]:
    """Times of all that are right, and what is the matter with the others."""
    prepared: dict[Variant, Sequence[timing.Call]] = {}
    faults: dict[Variant, str] = {}
    for variant in (*peers, *ours):
        calls, fault = _checked(point, variant)
        if fault:
            faults[variant] = fault
        else:
            prepared[variant] = calls
    competing = [variant for variant in ours if variant in prepared]
    standing = [peer for peer in peers if peer in prepared]
    found: dict[Variant, Timing] = {}
    finalists = competing
    if procedure.first_look is not None and len(competing) > procedure.first_look:
        look = replace(procedure, rounds=FIRST_LOOK_ROUNDS, work_us=FIRST_LOOK_WORK_US, burst=False)
        for batch in _batches(competing, BATCH):
            found |= _timed(point, {v: prepared[v] for v in batch}, look)
        finalists = select_finalists(found)
    found |= _timed(point, {v: prepared[v] for v in (*standing, *finalists)}, procedure)
    return found, faults


def select_finalists(found: dict[Variant, Timing]) -> list[Variant]:
    """The fastest of a first look that deserve a second one."""
    ranked = sorted(found, key=lambda variant: found[variant].us)
    limit = FINALIST_MARGIN * found[ranked[0]].us
    return [variant for variant in ranked[:FINALISTS] if found[variant].us <= limit]


def _timed(
    point: Point, prepared: dict[Variant, Sequence[timing.Call]], procedure: Procedure
) -> dict[Variant, Timing]:
    problem, sets = point.problem, len(point.weights.sets)
    count = calls_for(estimated_us(problem.m, problem.n, problem.k), sets, procedure.work_us)
    replays: list[Replay] = [timing.capture(calls, count, point.stream) for calls in prepared.values()]
    seed = hash((procedure.seed, problem.m, problem.n, problem.k))
    return dict(zip(prepared, _times(replays, procedure, point.stream, seed), strict=True))


def _times(replays: Sequence[Replay], procedure: Procedure, stream: Any, seed: int) -> list[Timing]:
    if procedure.burst:
        return timing.bursts(replays, procedure.rounds, stream, seed)
    return timing.interleaved(replays, procedure.rounds, stream, seed, procedure.rest)


def _checked(point: Point, variant: Variant) -> tuple[Sequence[timing.Call], str]:
    """The variant's calls, and what is wrong with its result, if anything.

    The first set's result is compared; `out` is full of NaN before, so that what is not written is seen.
    """
    at = f"{variant.title} at M={point.problem.m}, {title(point.problem)}"
    try:
        calls = variant.prepare(point)
        for call in calls[1:]:
            call()  # what is made at a first call, for any set, is made now
        point.out.data.memset_async(0xFF, point.out.nbytes, point.stream)  # all bits set: a NaN in each dtype
        calls[0]()
        timing.wait(point.stream, f"{at},")
    except HangError:
        raise
    except CompileError as error:
        return (), f"does not compile: {str(error).splitlines()[0]}"
    except (W4A16Error, ValueError, NotImplementedError, BenchError) as error:
        return (), f"refused: {error}"
    except Exception as error:
        if not variant.is_peer:  # such as a CUDA error, after which nothing runs any more: say what did it
            raise BenchError(f"{at} failed: {type(error).__name__}: {error}") from error
        return (), f"failed: {type(error).__name__}: {error}"
    error_found = device.worst_tile_error(point.out, point.weights.expected(point.problem.m))
    limit = error_limit(point.problem)
    if error_found <= limit:
        return calls, ""
    return (), f"wrong: a tile of the result is off by {error_found:.2g} of its size, {limit:.2g} is right"


def error_limit(problem: GemmProblem) -> float:
    """Largest root mean square error of a tile, relative to its size, that roundings explain.

    With u half the spacing of the dtype above 1, rounding the weights adds u at most and rounding the result
    another; float zeros may put a weight 2 ulp (4 u) further off. Random data err about a third of it.

    >>> error_limit(GemmProblem(1, 64, 128)) == 2 * 2**-11
    True
    """
    u = 2.0**-11 if problem.dtype == "float16" else 2.0**-8
    return (6 if problem.zeros == problem.dtype else 2) * u


def _cublas_tflops(problem: GemmProblem, blas: Blas, stream: Any, procedure: Procedure) -> float:
    """TFLOPS of cuBLAS in a large product, timed as the points are: floors hold from the first line on."""
    weights = Weights(problem, expect=False, seed=procedure.seed)
    out = cupy.empty((problem.m, problem.n), weights.a.dtype)
    point = Point(problem, weights, weights.a, out, stream, blas)
    calls = cublas_variant().prepare(point)
    calls[0]()
    found = _times([timing.capture(calls, len(calls), stream)], procedure, stream, procedure.seed)[0]
    return 2e-6 * problem.m * problem.n * problem.k / found.low_us


def _batches(items: Sequence[Variant], size: int) -> Iterator[Sequence[Variant]]:
    return (items[i : i + size] for i in range(0, len(items), size))
