"""Run both encoders on the same sentences and measure how they differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from .encoder import LINEARS, Array
from .linears import Method, QuantizedLinears, quantized_linears
from .model_files import Model
from .sentences import CALIBRATION
from .truth import Truth


@dataclass(frozen=True)
class Comparison:
    """What the demo measured: NumPy arrays and plain numbers, ready to print or draw."""

    sentences: list[str]
    tokens: int  # real ones
    padded_shape: tuple[int, int]  # (sentences, tokens) as the layers see it
    cosine: np.ndarray  # (sentences,) of the 4-bit embedding to the float32 one
    similarity: np.ndarray  # (sentences, sentences), float32 encoder
    similarity_4bit: np.ndarray
    linear_error: np.ndarray  # (blocks, linears) relative, the same inputs to both
    hidden_error: np.ndarray  # (blocks,) relative, of the hidden state, all errors up to there
    seconds_4bit: np.ndarray  # (blocks,) for a block's linear layers
    seconds_baseline: np.ndarray
    baseline: str  # what the baseline is, in words
    linear_weights: int  # how many numbers the linear layers' weights have
    bytes_4bit: int  # packed weights, scales and zeros
    bytes_other: int  # everything that stays float32: embeddings, norms, biases

    @property
    def nearest(self) -> np.ndarray:
        """For each sentence the others, nearest first, by the float32 encoder."""
        return ranking(self.similarity)

    @property
    def nearest_4bit(self) -> np.ndarray:
        """For each sentence the others, nearest first, by the 4-bit encoder."""
        return ranking(self.similarity_4bit)

    @property
    def same_nearest(self) -> int:
        """How many sentences have the same nearest one by both encoders."""
        return int((self.nearest[:, 0] == self.nearest_4bit[:, 0]).sum())

    @property
    def rank_correlation(self) -> float:
        """Spearman's correlation of the two encoders' similarities over all pairs of sentences."""
        pairs = np.triu_indices(len(self.sentences), k=1)
        ranks = [s[pairs].argsort(kind="stable").argsort() for s in (self.similarity, self.similarity_4bit)]
        return float(np.corrcoef(*ranks)[0, 1]) if len(ranks[0]) > 1 else 1.0


def ranking(similarity: np.ndarray) -> np.ndarray:
    """Return (n, n - 1) indices: for each row the other ones by falling similarity."""
    others = similarity - 4.0 * np.eye(len(similarity), dtype=similarity.dtype)  # itself comes last
    return np.argsort(-others, axis=1, kind="stable")[:, :-1]


def measure(
    model: Model, sentences: list[str], method: Method, xp: Any, progress: Callable[[list[str]], Any] = iter
) -> Comparison:
    """Encode `sentences` with float32 and with 4-bit linear layers on `xp` (`numpy` or `cupy`).

    `progress` wraps the list of layer names while they are quantized, as `tqdm.tqdm` does.
    """
    weights = {name: xp.asarray(w) for name, w in model.weights.items()}
    truth = Truth(model, weights, sentences, xp)
    activations = Truth(model, weights, list(CALIBRATION), xp).activations() if method.awq else None
    quantized = quantized_linears(weights, progress(truth.names), method, activations)
    mask, embedded = truth.mask, truth.embedded
    encoder = truth.encoder(quantized)
    states = encoder.hidden_states(truth.ids, mask)
    embedded_4bit = encoder.pool(states[-1], mask)
    pairs = zip(states[1:], truth.states[1:], strict=True)
    linear_weights = sum(weights[f"{name}.weight"].size for name in truth.names)
    seconds_4bit, seconds_baseline, baseline = _time_blocks(truth.names, truth.inputs, quantized, weights, xp)
    return Comparison(
        sentences=sentences,
        tokens=int(mask.sum()),
        padded_shape=truth.ids.shape,
        cosine=cupy.asnumpy((embedded * embedded_4bit).sum(axis=1)),
        similarity=cupy.asnumpy(embedded @ embedded.T),
        similarity_4bit=cupy.asnumpy(embedded_4bit @ embedded_4bit.T),
        linear_error=np.array(truth.linear_errors(quantized)).reshape(-1, len(LINEARS)),
        hidden_error=np.array([truth.relative_error(state, exact) for state, exact in pairs]),
        seconds_4bit=seconds_4bit,
        seconds_baseline=seconds_baseline,
        baseline=baseline,
        linear_weights=linear_weights,
        bytes_4bit=quantized.nbytes,
        bytes_other=sum(w.nbytes for w in weights.values() if w.dtype == "float32") - 4 * linear_weights,
    )


def _time_blocks(
    names: list[str],
    inputs: dict[str, Array],
    quantized: QuantizedLinears,
    weights: dict[str, Array],
    xp: Any,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Time each block's linear layers, in 4 bits and as plain products, on the inputs that they really get.

    The plain products are what one would run otherwise: float16 on a GPU; float32 on a CPU, where
    float16 products have no fast library.
    """
    plain = "float32" if xp is np else "float16"
    half = {name: x.astype("float16") for name, x in inputs.items()}
    plain_inputs = {name: x.astype(plain) for name, x in inputs.items()}
    plain_weights = {name: xp.ascontiguousarray(weights[f"{name}.weight"].T.astype(plain)) for name in names}

    def in_4_bits(block: list[str]) -> None:
        for name in block:
            quantized.half(name, half[name])

    def as_products(block: list[str]) -> None:
        for name in block:
            xp.matmul(plain_inputs[name], plain_weights[name])

    blocks = [names[i : i + len(LINEARS)] for i in range(0, len(names), len(LINEARS))]
    times = [[_median_seconds(call, block, xp) for call in (in_4_bits, as_products)] for block in blocks]
    seconds_4bit, seconds_plain = np.array(times).T
    return seconds_4bit, seconds_plain, f"{plain} {'BLAS' if xp is np else 'cuBLAS'}"


def _median_seconds(call: Callable[[list[str]], None], block: list[str], xp: Any) -> float:
    """Return the median time of `call(block)`: by events after a warm-up on a GPU, by the clock on a CPU."""
    if xp is not np:
        from cupyx.profiler import benchmark

        return float(np.median(benchmark(call, (block,), n_warmup=3, n_repeat=20).gpu_times))
    samples = []
    for _ in range(3):
        start = time.perf_counter()
        call(block)
        samples.append(time.perf_counter() - start)
    return float(np.median(samples))
