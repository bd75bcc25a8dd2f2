"""Whose product is timed: ours through `gemm` or `Linear`, cuBLAS, Humming.

A `Variant` makes, for a `Point`, a call for every weight set; all write the point's `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cupy

from .._choice import config_for
from .._config import NAMED_CONFIGS, GemmConfig, GemmProblem
from .._config_table import configs
from .._gemm import gemm
from .._validity import is_valid
from ..linear import Linear
from . import BenchError
from .cublas import Blas
from .timing import Call
from .weights import Weights


@dataclass(frozen=True)
class Point:
    """One product to time: `a` is the first rows of the weights' activations, `out` where the result goes."""

    problem: GemmProblem
    weights: Weights
    a: Any
    out: Any
    stream: Any
    blas: Blas


@dataclass(frozen=True)
class Variant:
    """A name for the table, the config where one is forced, and what makes the calls of a point."""

    name: str
    prepare: Callable[[Point], Sequence[Call]]
    config: GemmConfig | None = None
    is_peer: bool = False


def gemm_variant(config: GemmConfig | None = None, *, name: str | None = None, pdl: bool = False) -> Variant:
    """`gemm(..., out=)`; with no config, the heuristic's pick."""

    def prepare(point: Point) -> list[Call]:
        options = {"out": point.out, "config": config, **({"pdl": True} if pdl else {})}
        return [
            partial(gemm, point.a, s.b_packed, s.scales, s.zeros, point.problem.group_size, **options)
            for s in point.weights.sets
        ]

    return Variant(name or (config.name if config else "gemm"), prepare, config)


def linear_variant(*, name: str = "linear", **options: Any) -> Variant:
    """`Linear(...)(a, out=)`, without dependent launch unless `pdl=True` is among the options."""

    def prepare(point: Point) -> list[Call]:
        return [partial(layer, point.a, out=point.out) for layer in linears(point.weights, **options)]

    return Variant(name, prepare)


def linears(weights: Weights, **options: Any) -> list[Any]:
    """A `Linear` for each weight set; dependent launch off unless asked for."""
    options = {"pdl": False, **options}
    problem = weights.problem
    return [
        Linear(s.b_packed, s.scales, s.zeros, problem.group_size, k=problem.k, **options)
        for s in weights.sets
    ]


def cublas_variant(transposed: bool = False) -> Variant:
    """cuBLAS on weights kept (k, n), as `cupy.matmul(a, w)` has them, or (n, k), as PyTorch has them."""

    def prepare(point: Point) -> list[Call]:
        return [point.blas.matmul(point.a, w, point.out) for w in point.weights.plain(transposed)]

    return Variant("cublas-nk" if transposed else "cublas", prepare, is_peer=True)


def humming_variant() -> Variant:
    """Humming's int4 layer on the same codes and scales."""
    from .humming import prepare

    return Variant("humming", prepare, is_peer=True)


PEERS: dict[str, Callable[[], Variant]] = {
    "cublas": cublas_variant,
    "cublas-nk": partial(cublas_variant, True),
    "humming": humming_variant,
}


def known_configs(problem: GemmProblem) -> tuple[GemmConfig, ...]:
    """Every valid config the package knows for a problem, each once."""
    named = (config for config in NAMED_CONFIGS.values() if is_valid(config, problem))
    return tuple(dict.fromkeys((*named, *configs(problem))))


def present_config(problem: GemmProblem) -> GemmConfig:
    """What a call gets that names no config, on the current GPU."""
    return config_for(problem, cupy.cuda.runtime.getDevice())


def find_config(text: str, problems: Sequence[GemmProblem]) -> GemmConfig:
    """The config of that name, or of fields such as "tile_n=256,tile_m=64"; `BenchError` otherwise."""
    if "=" in text:
        return _config_of_fields(text)
    known = {config.name: config for problem in problems for config in known_configs(problem)}
    if text not in known:
        raise BenchError(
            f"--config {text}: no config of that name runs these shapes; `bench --list-configs` names those "
            "that do, and fields do too: tile_n=256,tile_m=64"
        )
    return known[text]


def _config_of_fields(text: str) -> GemmConfig:
    fields: dict[str, Any] = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        if name.strip() not in GemmConfig.__dataclass_fields__:
            allowed = ", ".join(GemmConfig.__dataclass_fields__)
            raise BenchError(
                f"--config {text}: {name.strip()!r} is no field of GemmConfig; they are {allowed}"
            )
        value = value.strip()
        fields[name.strip()] = (
            None if value == "None" else int(value) if value.lstrip("-").isdecimal() else value
        )
    return GemmConfig(**fields)
