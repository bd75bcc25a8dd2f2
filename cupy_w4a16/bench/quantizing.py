"""How long `quantize` takes for all linear layers of a model, by each method, and how much memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cupy
import numpy as np

from .. import _dtypes
from .._awq_scale import awq_scale
from .._quantize import QuantizedWeight, quantize
from . import BenchError, device
from .shapes import MODELS, Model, Shape

#: Rows of activations for `awq_scale`.
ACTIVATIONS = 512
#: Gaussian weights are some 10 % off in groups of 128, the worst 64 x 64 of one group a column some 17 %.
ERROR_LIMIT = 0.25


@dataclass(frozen=True)
class Layer:
    """Layers of one shape, `count` in a block."""

    names: str
    shape: Shape
    count: int


@dataclass(frozen=True)
class Matrices:
    """A model's linear layers as a checkpoint has them, one by one."""

    name: str
    blocks: int
    layers: tuple[Layer, ...]

    @property
    def weights(self) -> int:
        return self.blocks * sum(layer.count * layer.shape.n * layer.shape.k for layer in self.layers)


def matrices(model: Model) -> Matrices:
    """Those of a model whose layers are q, k and v in one, o, gate and up in one, down; q is of o's shape."""
    qkv, o, gate_up, down = model.layers
    layers = (
        Layer("k, v", Shape((qkv.n - o.k) // 2, qkv.k), 2),
        Layer("q, o", o, 2),
        Layer("gate, up", Shape(gate_up.n // 2, gate_up.k), 2),
        Layer("down", down, 1),
    )
    return Matrices(model.name, model.blocks, layers)


MODEL = matrices(MODELS[0])


@dataclass(frozen=True)
class LayerCost:
    """What a method costs for one layer; the first call compiles CuPy's kernels, or finds them on disk."""

    layer: Layer
    first_s: float
    again_s: float
    temporary_bytes: int
    error: float


def measure_quantizing(
    model: Matrices, *, dtype: str, group_size: int, rounds: int, seed: int = 0
) -> Iterator[tuple[str, list[LayerCost]]]:
    """Each method in turn and its cost for one layer of each shape, weights (n, k) as in a checkpoint."""
    for name, method in _methods(group_size).items():
        costs = []
        for layer in model.layers:
            stored, a = (
                cupy.empty((rows, layer.shape.k), _dtypes.dtype_of(dtype, _dtypes.HALF_DTYPES))
                for rows in (layer.shape.n, ACTIVATIONS)
            )
            device.fill_normal(stored, seed)
            device.fill_normal(a, seed + 1)
            costs.append(_cost(name, layer, stored, partial(method, stored.T, a), rounds))
        yield name, costs


def format_cost(model: Matrices, name: str, costs: Sequence[LayerCost]) -> str:
    """A line a method: seconds for the whole model once compiled, and for compiling."""
    again = model.blocks * sum(cost.layer.count * cost.again_s for cost in costs)
    compiling = sum(cost.first_s - cost.again_s for cost in costs)
    shares = "".join(f"{1e3 * cost.again_s:>12.1f}" for cost in costs)
    temporary, error = max(cost.temporary_bytes for cost in costs), max(cost.error for cost in costs)
    return f"{name:<14}{again:>12.1f}{compiling:>13.1f}{temporary / 1e6:>15.0f}{100 * error:>9.1f}{shares}"


def format_heading(model: Matrices) -> str:
    """What the lines are about."""
    layers = "".join(f"{layer.names:>12}" for layer in model.layers)
    return (
        f"Quantizing the linear layers of {model.name}, {model.weights / 1e9:.2f} x 10^9 weights: seconds\n"
        "for all, from one of each shape; seconds that the first calls took longer; the most memory beside\n"
        "weight and result; error of the worst 64 x 64 weights; milliseconds a layer\n"
        f"{'':<14}{'all, s':>12}{'compiling, s':>13}{'temporary MB':>15}{'error %':>9}{layers}"
    )


def _methods(group_size: int) -> dict[str, Callable[[Any, Any], tuple[QuantizedWeight, Any]]]:
    def plain(w: Any, a: Any, **options: Any) -> tuple[QuantizedWeight, Any]:
        return quantize(w, group_size, **options), None

    return {
        "rtn": plain,
        "mse": partial(plain, method="mse"),
        "rtn, zeros": partial(plain, symmetric=False),
        "mse, zeros": partial(plain, symmetric=False, method="mse"),
        "hqq, zeros": partial(plain, symmetric=False, method="hqq"),
        f"awq, {ACTIVATIONS} rows": lambda w, a: awq_scale(w, a, group_size),
    }


def _cost(
    name: str, layer: Layer, stored: Any, call: Callable[[], tuple[QuantizedWeight, Any]], rounds: int
) -> LayerCost:
    pool = cupy.cuda.MemoryPool()  # of its own: what it holds in the end is what was needed at once
    with cupy.cuda.using_allocator(pool.malloc):
        first_s, (weight, scale) = _timed(call)
        results = (weight.b_packed, weight.scales, weight.zeros, scale)
        temporary_bytes = pool.total_bytes() - sum(x.nbytes for x in results if x is not None)
    error = _weight_error(stored, weight, scale)
    if not error <= ERROR_LIMIT:
        raise BenchError(f"{name}, {layer.names}: weights are {error:.2g} off, {ERROR_LIMIT} is the limit")
    del weight, scale, results
    with cupy.cuda.using_allocator(pool.malloc):
        again_s = statistics.median(_timed(call)[0] for _ in range(rounds))
    return LayerCost(layer, first_s, again_s, temporary_bytes, error)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    stream = cupy.cuda.get_current_stream()
    stream.synchronize()
    start = time.perf_counter()
    result = call()
    stream.synchronize()
    return time.perf_counter() - start, result


def _weight_error(stored: Any, weight: QuantizedWeight, scale: Any) -> float:
    back = cupy.empty(stored.shape, np.float32)
    device.dequantize_into(back.T, *weight)
    if scale is not None:
        back /= scale.astype(np.float32)
    return device.worst_tile_error(stored, back)
