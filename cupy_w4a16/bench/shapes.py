"""What is measured: shapes of real models' linear layers, token counts, and how often."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .._group_size import group_rows
from .._pack import packed_shape
from . import BenchError

CACHES = 4  # more than so many L2 caches of distinct weights pass before a set comes round again


class Shape(NamedTuple):
    """A linear layer's weights: `n` output features, `k` input features."""

    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.n}x{self.k}"


# Llama-3.1-8B, then 70B: q, k and v in one, o, down, gate and up in one; 70B's o is 8192x8192.
MODEL_SHAPES = tuple(
    Shape(n, k)
    for n, k in (
        (4096, 4096),
        (6144, 4096),
        (4096, 14336),
        (8192, 8192),
        (28672, 4096),
        (8192, 28672),
        (57344, 8192),
    )
)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Model:
    """A model's linear layers: `blocks` times those of one block, each fed by the one before."""

    name: str
    blocks: int
    layers: tuple[Shape, ...]


MODELS = (
    Model("Llama-3.1-8B", 32, (Shape(6144, 4096), Shape(4096, 4096), Shape(28672, 4096), Shape(4096, 14336))),
    Model(
        "Llama-3.1-70B", 80, (Shape(10240, 8192), Shape(8192, 8192), Shape(57344, 8192), Shape(8192, 28672))
    ),
)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Shapes from "4096x4096,28672x4096", N (output features) before K.

    >>> parse_shapes("4096x14336")
    (Shape(n=4096, k=14336),)
    """
    shapes = []
    for word in text.split(","):
        sizes = word.strip().lower().split("x")
        if len(sizes) != 2 or not all(size.isdecimal() and int(size) for size in sizes):
            raise BenchError(
                f"--shapes has {word!r}: shapes are NxK, output features x input features, with commas "
                "between, such as 4096x4096,28672x4096"
            )
        shapes.append(Shape(*map(int, sizes)))
    return tuple(shapes)


def weight_bytes(n: int, k: int, group_size: int, zero_bytes: int = 0) -> int:
    """Bytes of 4-bit weights that a product reads: blocks of codes, scales of 2 bytes, zeros of `zero_bytes`.

    >>> weight_bytes(4096, 4096, 128)
    8650752
    """
    return 4 * math.prod(packed_shape(k, n)) + group_rows(k, group_size) * n * (2 + zero_bytes)


def rotation(set_bytes: int, l2_bytes: int) -> int:
    """Sets of `set_bytes` that together hold more than `CACHES` caches; two at least.

    >>> rotation(8_650_752, 52_428_800), rotation(10**9, 52_428_800)
    (25, 2)
    """
    return max(2, CACHES * l2_bytes // set_bytes + 1)


def calls_for(call_us: float, least: int, work_us: float, most: int = 2000) -> int:
    """Calls of one graph: `work_us` of work, every weight set at least once, no more than `most` beyond that.

    >>> calls_for(5.0, 25, 5000.0), calls_for(400.0, 25, 5000.0), calls_for(0.5, 25, 5000.0)
    (1000, 25, 2000)
    """
    return max(least, min(most, round(work_us / call_us)))


def estimated_us(m: int, n: int, k: int) -> float:
    """About how long a good kernel takes, to choose repetitions by: 2 us, 3 TB/s, 650 TFLOPS."""
    return max(2 + n * k / 2 / 3e6, 2.0 * m * n * k / 650e6)


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios.

    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    product, count = 1.0, 0
    for value in values:
        product, count = product * value, count + 1
    return product ** (1 / count) if count else float("nan")
