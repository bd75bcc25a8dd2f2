"""Humming (https://github.com/vllm-project/humming, PyPI `humming-kernels`) on our codes, where installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import cupy

from .._pack import unpack
from . import BenchError
from .timing import Call

if TYPE_CHECKING:
    from .variants import Point
    from .weights import PackedSet

CODES_PER_WORD = 8


def is_installed() -> bool:
    """Whether Humming and the PyTorch it needs can be imported."""
    return all(importlib.util.find_spec(name) for name in ("torch", "humming"))


def version() -> str | None:
    from .._env import installed

    return installed("humming-kernels")


def prepare(point: Point) -> Sequence[Call]:
    """A call for every weight set, on the point's stream, into its `out`; symmetric weights only."""
    if point.problem.zeros is not None:
        raise BenchError("Humming is compared on symmetric weights only")
    import torch

    stream = torch.cuda.ExternalStream(point.stream.ptr)
    a, out = torch.from_dlpack(point.a), torch.from_dlpack(point.out)
    layers = _layers(point)
    # Versions before dependent launch have no word for it.
    options = {"use_pdl": False} if "use_pdl" in signature(layers[0].forward).parameters else {}
    calls = [partial(layer, a, outputs=out, **options) for layer in layers]

    def on_stream(call: Call) -> Any:
        with torch.cuda.stream(stream), torch.no_grad():
            return call()

    return [partial(on_stream, call) for call in calls]


def _layers(point: Point) -> list[Any]:
    """Humming's layers of a shape, kept with its weights: made once, for all numbers of tokens."""
    kept = point.weights.converted
    if "humming" not in kept:
        kept["humming"] = [_layer(point, packed) for packed in point.weights.sets]
    made: list[Any] = kept["humming"]
    return made


def _layer(point: Point, packed: PackedSet) -> Any:
    """A layer with the codes and scales of `packed`: Humming's have an implied zero of 8 too."""
    import torch
    from humming.layer import HummingLayer

    problem = point.problem
    layer = HummingLayer(
        shape_n=problem.n,
        shape_k=problem.k,
        weight_config={"dtype": "uint4", "group_size": 0 if problem.group_size == -1 else problem.group_size},
        torch_dtype=getattr(torch, problem.dtype),
    ).cuda()
    # Eight codes of neighbouring k in a word, the first in the lowest bits; (n, k / 8).
    codes = unpack(packed.b_packed, problem.k, problem.n).T.reshape(problem.n, -1, CODES_PER_WORD)
    words = cupy.zeros(codes.shape[:2], cupy.uint32)
    for i in range(CODES_PER_WORD):
        words |= codes[:, :, i].astype(cupy.uint32) << (4 * i)
    scales = cupy.ascontiguousarray(packed.scales.T)
    cupy.cuda.get_current_stream().synchronize()  # PyTorch works on a stream of its own
    layer.load_from_tensors(
        {"weight": torch.from_dlpack(words.view(cupy.int32)), "weight_scale": torch.from_dlpack(scales)}
    )
    layer.transform()
    torch.cuda.synchronize()
    return layer
