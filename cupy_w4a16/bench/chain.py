"""A stack of linear layers, a model's or your own, each fed by the one before: tokens per second they allow.

Attention, norms and the sampling of tokens are left out, so these are bounds, the same for both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cupy
import numpy as np

from .. import _dtypes
from .._config import GemmProblem
from ..linear import Linear
from . import BenchError, device, machine, timing
from .cublas import Blas
from .shapes import Model, Shape, calls_for, estimated_us, rotation, weight_bytes
from .weights import PackedSet, random_set

WORK_US, EAGER_S, EAGER_ROUNDS = 10_000.0, 0.02, 4
CHECKED_BLOCKS = 2
ERROR_LIMIT = 0.01  # about a dozen layers in half precision, each 3e-4 off


@dataclass(frozen=True)
class Chained:
    """One variant of one block of a model, in µs, with every launch from Python or all in a graph."""

    model: Model
    m: int
    name: str
    eager_us: float
    graph_us: float

    def tokens_per_s(self, block_us: float) -> float:
        """Tokens a second that all blocks allow.

        >>> model = Model("", 10, ())
        >>> Chained(model, 4, "", 100.0, 50.0).tokens_per_s(50.0)
        8000.0
        """
        return self.m / (block_us * self.model.blocks * 1e-6)


@dataclass(frozen=True)
class Layer:
    """A linear layer of one block, with its result; `a` is the memory of the result before."""

    packed: PackedSet
    w: Any
    a: Any
    out: Any


def measure_chain(
    model: Model, m: int, *, dtype: str, group_size: int, rounds: int, rest: float, seed: int = 0
) -> list[Chained]:
    """FP16 and W4A16, without and with dependent launch, through the layers of `model` at `m` tokens.

    They take turns; before each the GPU rests, `rest` times as long as it takes.
    """
    stream = cupy.cuda.Stream(non_blocking=True)
    with machine.watched(), stream, Blas(stream) as blas:
        layers = _layers(model, m, dtype, group_size, seed)
        variants = _variants(layers, blas, group_size)
        in_graphs = {name: in_graph for name, (_, in_graph) in variants.items()}
        _check(layers, len(model.layers), in_graphs, stream, seed)
        call_us = sum(estimated_us(m, *shape) for shape in model.layers) / len(model.layers)
        passes = -(-calls_for(call_us, len(layers), WORK_US) // len(layers))
        replays = [timing.capture(calls, passes * len(layers), stream) for calls in in_graphs.values()]
        eager_us = _eager_us([eager for eager, _ in variants.values()], stream, rest)
        graphs = timing.interleaved(replays, rounds, stream, seed, rest)
    return [
        Chained(model, m, name, len(model.layers) * eager, len(model.layers) * graph.us)
        for name, eager, graph in zip(variants, eager_us, graphs, strict=True)
    ]


def format_chain(found: Sequence[Chained]) -> str:
    """A line a variant: µs a block and tokens a second, eager and by graph, and how much faster than FP16."""
    lines = [f"{'':<28}{'eager':^32}{'CUDA graph':^32}"]
    titles = "".join(f"{'µs a block':>12}{'tokens/s':>11}{'x FP16':>9}" for _ in range(2))
    lines.append(f"{'M':>6}  {'':<20}{titles}")
    for row in found:
        base = next(other for other in found if (other.model, other.m) == (row.model, row.m))
        cells = "".join(
            f"{us:>12.1f}{row.tokens_per_s(us):>11.1f}{base_us / us:>9.2f}"
            for us, base_us in ((row.eager_us, base.eager_us), (row.graph_us, base.graph_us))
        )
        lines.append(f"{row.m:>6}  {row.name:<20}{cells}")
    return "\n".join(lines)


def _layers(model: Model, m: int, dtype: str, group_size: int, seed: int) -> list[Layer]:
    """As many blocks as make their weights cold; activations are shared, as a real model does."""
    kind = _dtypes.dtype_of(dtype, _dtypes.HALF_DTYPES)
    shapes = 2 * model.layers if len(model.layers) == 1 else model.layers  # none writes what it reads
    set_bytes = sum(weight_bytes(*shape, group_size) for shape in shapes)
    outs = [cupy.empty((m, shape.n), kind) for shape in shapes]
    layers: list[Layer] = []
    for _ in range(rotation(set_bytes, machine.l2_bytes())):
        for i, shape in enumerate(shapes):
            packed = random_set(GemmProblem(m, shape.n, shape.k, group_size, dtype), seed + len(layers))
            w = cupy.empty((shape.k, shape.n), kind)
            device.dequantize_into(w, packed.b_packed, packed.scales, packed.zeros, group_size)
            layers.append(Layer(packed, w, _input(outs[i - 1], m, shape), outs[i]))
    return layers


def _input(previous: Any, m: int, shape: Shape) -> Any:
    """The first numbers of the result before, as many as the layer takes: the part of q, say."""
    return previous.reshape(-1)[: m * shape.k].reshape(m, shape.k)


def _variants(layers: Sequence[Layer], blas: Blas, group_size: int) -> dict[str, tuple[list[Any], list[Any]]]:
    """Calls by name, eager and for graphs. FP16 is `cupy.matmul`, in graphs cuBLAS with its own workspace."""
    variants: dict[str, tuple[list[Any], list[Any]]] = {
        "FP16": (
            [partial(cupy.matmul, layer.a, layer.w, out=layer.out) for layer in layers],
            [blas.matmul(layer.a, layer.w, layer.out) for layer in layers],
        )
    }
    for name, pdl in (("W4A16", False), ("W4A16, dependent", True)):
        made = [
            partial(
                Linear(x.packed.b_packed, x.packed.scales, None, group_size, k=x.a.shape[1], pdl=pdl),
                x.a,
                out=x.out,
            )
            for x in layers
        ]
        variants[name] = (made, made)
    return variants


def _check(
    layers: Sequence[Layer], block: int, variants: dict[str, list[Callable[[], Any]]], stream: Any, seed: int
) -> None:
    """`BenchError` unless all variants give the same after the first blocks, but for rounding."""
    results = {}
    last = layers[-1].out
    for name, calls in variants.items():
        device.fill_normal(last, seed)  # the first layer's input
        for layer in layers[:-1]:
            if layer.out is not last:
                layer.out.data.memset_async(0xFF, layer.out.nbytes)  # NaN
        for call in calls[: CHECKED_BLOCKS * block]:  # in thousands of layers rounding grows beyond any limit
            call()
        timing.wait(stream, f"{name}, the chain's first blocks,")
        results[name] = last.astype(np.float32)
    for name, result in results.items():
        if name != "FP16":
            error = device.worst_tile_error(result, results["FP16"])
            if not error <= ERROR_LIMIT:
                raise BenchError(
                    f"{name}: the chain's result is off by {error:.2g} of its size, {ERROR_LIMIT} is right"
                )


def _eager_us(variants: Sequence[Sequence[Callable[[], Any]]], stream: Any, rest: float) -> list[float]:
    """For each variant, µs a call of whole passes launched from Python; the best of `EAGER_ROUNDS`."""
    best = [float("inf")] * len(variants)
    for _ in range(EAGER_ROUNDS):
        for i, calls in enumerate(variants):
            took_s, count = _eager_pass(calls, stream)
            best[i] = min(best[i], took_s / count * 1e6)
            time.sleep(rest * took_s)
    return best


def _eager_pass(calls: Sequence[Callable[[], Any]], stream: Any) -> tuple[float, int]:
    """Seconds until the GPU has done what Python launched, in whole passes for `EAGER_S`, and its calls."""
    stream.synchronize()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < EAGER_S:
        for call in calls:
            call()
        count += len(calls)
    stream.synchronize()
    return time.perf_counter() - start, count
