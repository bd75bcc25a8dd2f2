"""A Llama-like decoder whose linear layers have 4-bit weights: one CUDA graph a token.

    python -m cupy_w4a16.examples.decoder --tokens 64

runs on CuPy where there is a Hopper GPU, on NumPy elsewhere. Weights are random, and so is what the model
says. On the GPU a token is one launch: all kernels of a step are captured once, in a graph that reads token
and position from device memory and finds every buffer where it was.

An 8-billion-parameter model's sizes are `--hidden 4096 --heads 32 --kv-heads 8 --head-size 128 --mlp 14336
--blocks 32 --vocabulary 128256`; making up its weights takes half a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np
from tqdm import tqdm

from cupy_w4a16 import Linear, pack

from .decoder_kernels import Array, CudaKernels, NumpyKernels, Shape
from .hopper import has_hopper


class Block(NamedTuple):
    """One block's weights: norms are float32 (hidden,)."""

    attention_norm: Array
    qkv: Linear  # query, key and value side by side: one product instead of three
    attention_out: Linear
    mlp_norm: Array
    gate_up: Linear  # likewise
    down: Linear


class Weights(NamedTuple):
    """A model's weights: blocks between an embedding, float16 (vocabulary, hidden), and the output head."""

    embedding: Array
    blocks: list[Block]
    norm: Array
    head: Linear  # to float32


def random_weights(shape: Shape, xp: Any = np, seed: int = 0, group_size: int = 128) -> Weights:
    """Weights that keep activations of size 1; the same on NumPy and CuPy.

    >>> random_weights(Shape(hidden=128, blocks=1)).blocks[0].qkv
    Linear(128 -> 384, group_size=128, float16, numpy)
    """
    rng = np.random.default_rng(seed)

    def linear(k: int, n: int, **options: Any) -> Linear:
        # Codes: drawing normal numbers for eight billion weights takes minutes. The mean of (q - 8)**2 is
        # 21.5; that of q - 8 is not 0, so groups have signs.
        pairs = xp.asarray(np.frombuffer(rng.bytes(-(-k * n // 2)), np.uint8))
        q = xp.stack((pairs & 15, pairs >> 4), axis=-1).ravel()[: k * n].reshape(k, n)
        signs = rng.choice((-1.0, 1.0), (-(-k // group_size), n))
        scales = xp.asarray((signs / (21.5 * k) ** 0.5).astype(np.float16))
        return Linear(pack(q), scales, group_size=group_size, k=k, **options)

    def norm() -> Array:
        return xp.asarray(rng.uniform(0.5, 1.5, shape.hidden).astype(np.float32))

    def block() -> Block:
        hidden, heads = shape.hidden, shape.heads * shape.head_size
        qkv, attention_out = linear(hidden, shape.qkv), linear(heads, hidden)
        gate_up, down = linear(hidden, 2 * shape.mlp), linear(shape.mlp, hidden)
        return Block(norm(), qkv, attention_out, norm(), gate_up, down)

    embedding = rng.standard_normal((shape.vocabulary, shape.hidden), np.float32).astype(np.float16)
    blocks = [block() for _ in tqdm(range(shape.blocks), "weights", disable=None)]
    return Weights(
        xp.asarray(embedding), blocks, norm(), linear(shape.hidden, shape.vocabulary, dtype="float32")
    )


class Decoder:
    """Reads one token a step, keeps its keys and values, and chooses the likeliest next one.

    `tokens` holds the sequence, -1 where nothing is chosen yet; `logits` are those of the last step.

    >>> shape = Shape(hidden=128, blocks=1)
    >>> decoder = Decoder(shape, random_weights(shape))
    >>> len(decoder.generate([1, 2, 3], 4))
    4
    """

    def __init__(self, shape: Shape, weights: Weights) -> None:
        self.shape, self.weights = shape, weights
        self.xp = xp = cupy.get_array_module(weights.embedding)
        on_gpu = xp is cupy
        self.kernels = CudaKernels(shape) if on_gpu else NumpyKernels(shape)

        # All memory of a step, once: the graph holds its addresses.
        self.tokens = xp.full(shape.max_tokens + 1, -1, np.int32)
        self.position = xp.zeros(1, np.int32)
        self.turns = xp.asarray(shape.turns())
        self.cache = xp.zeros(
            (shape.blocks, 2, shape.kv_heads, shape.max_tokens, shape.head_size), np.float16
        )
        self.x = xp.empty(shape.hidden, np.float32)
        self.update, self.a = (xp.empty(shape.hidden, np.float16) for _ in range(2))
        self.qkv = xp.empty(shape.qkv, np.float16)
        self.mixed = xp.empty(shape.heads * shape.head_size, np.float16)
        self.gate_up = xp.empty(2 * shape.mlp, np.float16)
        self.gated = xp.empty(shape.mlp, np.float16)
        self.logits = xp.empty(shape.vocabulary, np.float32)

        self.stream: Any = contextlib.nullcontext()
        self.graph: Any = None
        if on_gpu:
            cupy.cuda.Device().synchronize()  # weights and buffers were filled on another stream
            self.stream = cupy.cuda.Stream(non_blocking=True)
            self.graph = self._captured()
        self.steps_left = 0  # until there is a prompt

    def start(self, prompt: Sequence[int]) -> None:
        """Forget the sequence and begin another; a step reads a token of it, as long as there are any."""
        host = np.full(self.shape.max_tokens + 1, -1, np.int32)
        if not 0 < len(prompt) < len(host):
            raise ValueError(
                f"prompt has {len(prompt)} tokens: 1 to {len(host) - 1}, max_tokens, are possible"
            )
        if not all(0 <= token < self.shape.vocabulary for token in prompt):
            raise ValueError(f"prompt is {prompt}: its tokens must be from 0 to {self.shape.vocabulary - 1}")
        host[: len(prompt)] = prompt
        with self.stream:
            self.tokens[...] = self.xp.asarray(host)
            self.position[...] = 0
        self.steps_left = self.shape.max_tokens

    def step(self, eager: bool = False) -> None:
        """Read one token and choose the next, by the graph; `eager`: by one launch after the other."""
        if not self.steps_left:
            raise ValueError(f"no step is left of max_tokens, {self.shape.max_tokens}: start a sequence")
        self.steps_left -= 1
        if self.graph is None or eager:
            with self.stream:
                self._forward()
        else:
            self.graph.launch(self.stream)

    def generate(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that follow `prompt`, the likeliest each time."""
        end = len(prompt) + count
        if count < 0 or end > len(self.tokens):
            most = len(self.tokens) - len(prompt)
            raise ValueError(f"count is {count}: after {len(prompt)} tokens, 0 to {most} can follow")
        self.start(prompt)
        for _ in range(end - 1):
            self.step()
        with self.stream:
            return self.tokens[len(prompt) : end].tolist()

    def _forward(self) -> None:
        """What the graph captures. Nothing here allocates, waits, or looks at a number on the GPU."""
        run = self.kernels
        run.embed(self.tokens, self.position, self.weights.embedding, self.x, self.update)
        for block, (keys, values) in zip(self.weights.blocks, self.cache, strict=True):
            run.add_norm(self.x, self.update, block.attention_norm, self.a)
            block.qkv(self.a, out=self.qkv)
            run.rotate(self.qkv, self.turns, self.position, keys, values)
            run.attend(self.qkv, keys, values, self.position, self.mixed)
            block.attention_out(self.mixed, out=self.update)

            run.add_norm(self.x, self.update, block.mlp_norm, self.a)
            block.gate_up(self.a, out=self.gate_up)
            run.gate(self.gate_up, self.gated)
            block.down(self.gated, out=self.update)
        run.add_norm(self.x, self.update, self.weights.norm, self.a)
        self.weights.head(self.a, out=self.logits)
        run.choose(self.logits, self.tokens, self.position)

    def _captured(self) -> Any:
        """The graph of one step."""
        self.start([0])
        with self.stream:
            self._forward()  # compiles and loads what it runs, which a capture can't
            self.stream.begin_capture()
            self._forward()
            return self.stream.end_capture()


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, print the tokens and the time of a step."""
    parser = argparse.ArgumentParser(prog="python -m cupy_w4a16.examples.decoder", description=main.__doc__)
    sizes = Shape()
    for name in ("vocabulary", "hidden", "heads", "kv_heads", "head_size", "mlp", "blocks"):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(sizes, name), help="(default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="to generate (default: %(default)s)")
    chosen = vars(parser.parse_args(arguments))
    count = chosen.pop("tokens")
    if count < 0:
        parser.error(f"--tokens is {count}: it must be 0 or more")
    try:
        shape = Shape(**chosen, max_tokens=4 + count)
    except ValueError as error:
        parser.error(str(error))
    prompt = [token % shape.vocabulary for token in (1, 2, 3, 4)]

    xp = cupy if has_hopper() else np
    decoder = Decoder(shape, random_weights(shape, xp))
    start = time.perf_counter()
    tokens = decoder.generate(prompt, count)
    step_us = (time.perf_counter() - start) / (len(prompt) + count - 1) * 1e6
    print(f"{prompt} -> {tokens}")
    print(f"{xp.__name__}: {step_us:.0f} µs a token, {1e6 / step_us:.0f} tokens a second")


if __name__ == "__main__":
    main()
