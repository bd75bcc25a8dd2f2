"""Whose product is timed: ours through `gemm` or `Linear`, cuBLAS, Humming.

A `Variant` makes, for a `Point`, a call for every weight set; all write the point's `out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import _config_table
from .._choice import config_for
from .._config import GemmConfig, GemmProblem
from .._device import current_device
from .._gemm import gemm
from .._kernels import Kernel, kernel_for
from .._normalised import takes_normalised
from .._pdl import wanted
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
    """What is called, what makes the calls of a point, and the config where one is forced.

    `normalises`: it reads normalised scales where a kernel for them exists. `pdl`: its launch is dependent.
    """

    name: str
    prepare: Callable[[Point], Sequence[Call]]
    config: GemmConfig | None = None
    is_peer: bool = False
    normalises: bool = False
    pdl: bool = False

    @property
    def title(self) -> str:
        return f"{self.name}: {self.config.name}" if self.config else self.name

    def config_for(self, problem: GemmProblem) -> GemmConfig:
        """The config that ours runs `problem` with."""
        return self.config or present_config(problem, self.pdl)

    def kernel_for(self, problem: GemmProblem) -> Kernel:
        """The kernel that ours runs `problem` with."""
        config = self.config_for(problem)
        return kernel_for(config, problem, normalised=self.normalises and takes_normalised(config, problem))


def gemm_variant(config: GemmConfig | None = None, *, pdl: bool = False) -> Variant:
    """`gemm(..., out=)`; with no config, what a call gets."""

    def prepare(point: Point) -> list[Call]:
        options = {"out": point.out, "config": config, "pdl": pdl}
        return [
            partial(gemm, point.a, s.b_packed, s.scales, s.zeros, point.problem.group_size, **options)
            for s in point.weights.sets
        ]

    return Variant("gemm-pdl" if pdl else "gemm", prepare, config, pdl=pdl)


def linear_variant(config: GemmConfig | None = None, *, pdl: bool = False) -> Variant:
    """`Linear(...)(a, out=)`; with no config, what a call gets."""

    def prepare(point: Point) -> list[Call]:
        layers = linears(point.weights, pdl=pdl)
        return [partial(layer, point.a, out=point.out, config=config) for layer in layers]

    return Variant("linear-pdl" if pdl else "linear", prepare, config, normalises=True, pdl=pdl)


def linears(weights: Weights, *, pdl: bool = False) -> list[Any]:
    """A `Linear` for each weight set, made once."""
    name = "linear-pdl" if pdl else "linear"
    if name not in weights.converted:
        k, group_size = weights.problem.k, weights.problem.group_size
        weights.converted[name] = [
            Linear(s.b_packed, s.scales, s.zeros, group_size, k=k, pdl=pdl) for s in weights.sets
        ]
    return list(weights.converted[name])


#: Makers of our own, which force a config or, with None, take what a call gets.
VARIANTS: dict[str, Callable[[GemmConfig | None], Variant]] = {
    "linear": linear_variant,
    "gemm": gemm_variant,
    "linear-pdl": partial(linear_variant, pdl=True),
    "gemm-pdl": partial(gemm_variant, pdl=True),
}


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


def present_config(problem: GemmProblem, pdl: bool) -> GemmConfig:
    """What a call with this `pdl` gets that names no config, on the current GPU."""
    return config_for(problem, current_device(), wanted(pdl))


def find_config(text: str, problems: Sequence[GemmProblem]) -> GemmConfig:
    """The config of that name, or of fields such as "tile_n=256,tile_m=64"; `BenchError` otherwise."""
    if "=" in text:
        return _config_of_fields(text)
    known = {config.name: config for problem in problems for config in _config_table.configs(problem)}
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
