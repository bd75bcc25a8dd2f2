"""A decoder's steps between its linear layers, twice: `NumpyKernels`, and `CudaKernels` out of decoder.cu.

Both have the same methods, which take their arrays and write results into some of them. One token of one
sequence at a time; what changes from step to step, `tokens` and `position`, are arrays too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cupy
import numpy as np

Array = Any  # a NumPy or a CuPy array
BLOCK_THREADS, ATTEND_THREADS = 1024, 256


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, by default those of a toy that starts in a second."""

    vocabulary: int = 1024
    hidden: int = 256
    heads: int = 8
    kv_heads: int = 2  # groups of heads share a key and a value
    head_size: int = 32
    mlp: int = 768
    blocks: int = 4
    max_tokens: int = 256  # of a sequence, prompt included: rows of the cache
    theta: float = 10_000.0  # the slowest rotation takes about 2 pi theta tokens for a turn
    epsilon: float = 1e-5  # keeps the norm of zeros finite

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} is {value}: it must be above 0")
        if self.head_size % 32 or self.head_size > 1024:
            raise ValueError(f"head_size is {self.head_size}: a multiple of 32, at most 1024, is served")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads is {self.heads}: it must be a multiple of kv_heads, {self.kv_heads}")

    @property
    def qkv(self) -> int:
        """Columns of the fused query, key and value."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    def turns(self) -> np.ndarray[Any, Any]:
        """Rotary angles as cosines and sines, float32 (max_tokens, 2, head_size / 2): arXiv:2104.09864."""
        speeds = self.theta ** (-np.arange(0, self.head_size, 2) / self.head_size)
        angles = np.arange(self.max_tokens)[:, None] * speeds
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class NumpyKernels:
    """The steps on the CPU, float16 in memory and float32 between, as on the GPU."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def embed(self, tokens: Array, position: Array, table: Array, x: Array, update: Array) -> None:
        """Start a token: the sum `x` of all updates is 0, and the first update is the embedding."""
        x[...] = 0
        update[...] = table[tokens[position[0]]]

    def add_norm(self, x: Array, update: Array, weight: Array, a: Array) -> None:
        """Add an update to `x`; `a` is `x` over its root mean square, times `weight` (arXiv:1910.07467)."""
        x += update
        a[...] = x / np.sqrt((x * x).mean() + self.shape.epsilon) * weight

    def rotate(self, qkv: Array, turns: Array, position: Array, keys: Array, values: Array) -> None:
        """Turn query and key by the position's angles; key and value go to their rows of the cache."""
        s, at = self.shape, position[0]
        heads = qkv.reshape(-1, s.head_size)
        x, y = np.split(heads[: s.heads + s.kv_heads].astype(np.float32), 2, axis=1)
        cosine, sine = turns[at]
        turned = np.concatenate([x * cosine - y * sine, y * cosine + x * sine], axis=1)
        heads[: s.heads], keys[:, at] = turned[: s.heads], turned[s.heads :]
        values[:, at] = heads[s.heads + s.kv_heads :]

    def attend(self, qkv: Array, keys: Array, values: Array, position: Array, mixed: Array) -> None:
        """Mix the values of all positions so far, by the softmax of query times key."""
        s, past = self.shape, slice(position[0] + 1)
        # (kv_heads, heads of a group, head_size) times (kv_heads, head_size, positions)
        query = qkv[: s.heads * s.head_size].reshape(s.kv_heads, -1, s.head_size).astype(np.float32)
        scores = query @ keys[:, past].astype(np.float32).transpose(0, 2, 1) / s.head_size**0.5
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result = weights @ values[:, past].astype(np.float32) / weights.sum(axis=-1, keepdims=True)
        mixed[...] = result.reshape(-1)

    def gate(self, gate_up: Array, gated: Array) -> None:
        """`silu(gate) * up` (arXiv:2002.05202)."""
        gate, up = np.split(gate_up.astype(np.float32), 2)
        gated[...] = gate / (1 + np.exp(-gate)) * up

    def choose(self, logits: Array, tokens: Array, position: Array) -> None:
        """The next position, and its token: the likeliest, where no prompt says otherwise."""
        position += 1
        if tokens[position[0]] < 0:
            tokens[position[0]] = logits.argmax()


def cuda_source(shape: Shape) -> str:
    """decoder.cu for one shape: its sizes are compile-time numbers."""
    s = shape
    macros = {
        "VOCABULARY": s.vocabulary, "HIDDEN": s.hidden, "HEADS": s.heads, "KV_HEADS": s.kv_heads,
        "HEAD_SIZE": s.head_size, "MLP": s.mlp, "MAX_TOKENS": s.max_tokens, "EPSILON": f"{s.epsilon}f",
        "BLOCK_THREADS": BLOCK_THREADS, "ATTEND_THREADS": ATTEND_THREADS,
    }  # fmt: skip
    defines = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    return defines + Path(__file__).with_name("decoder.cu").read_text()


class CudaKernels:
    """The same steps on the GPU, on CuPy's current stream; decoder.cu says how."""

    embed: Callable[..., None]
    add_norm: Callable[..., None]
    rotate: Callable[..., None]
    attend: Callable[..., None]
    gate: Callable[..., None]
    choose: Callable[..., None]

    def __init__(self, shape: Shape) -> None:
        s, block = shape, BLOCK_THREADS
        module = cupy.RawModule(code=cuda_source(shape))

        def launcher(name: str, blocks: int, threads: int) -> Callable[..., None]:
            kernel = module.get_function(name)
            return lambda *arrays: kernel((blocks,), (threads,), arrays)

        self.embed = launcher("embed", -(-s.hidden // block), block)
        self.add_norm = launcher("add_norm", 1, block)
        self.rotate = launcher("rotate", s.heads + 2 * s.kv_heads, s.head_size // 2)
        self.attend = launcher("attend", s.heads, ATTEND_THREADS)
        self.gate = launcher("gate", -(-s.mlp // block), block)
        self.choose = launcher("choose", 1, block)
