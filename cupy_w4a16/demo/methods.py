"""What each method to quantize does to the encoder, as one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from .._scheme import METHODS
from .linears import Method, quantized_linears
from .model_files import Model
from .sentences import CALIBRATION
from .truth import Truth


@dataclass(frozen=True)
class Accuracy:
    """A method and what it leaves of the encoder."""

    method: Method
    cosine: np.ndarray  # (sentences,) of the 4-bit embedding to the float32 one
    linear_error: np.ndarray  # (linears,) relative, the same inputs to both
    nbytes: int  # packed weights, scales and zeros
    seconds: float  # to quantize all layers


def methods(group_size: int) -> list[Method]:
    """Each with and without zeros, where it can do without, and with activation-aware scaling."""
    found = []
    for symmetric in (True, False):
        names = [name for name in METHODS if name != "hqq" or not symmetric]
        found += [Method(group_size, name, symmetric) for name in names]
        found.append(Method(group_size, "rtn", symmetric, awq=True))
    return found


def compare_methods(
    model: Model,
    sentences: list[str],
    chosen: Sequence[Method],
    xp: Any,
    progress: Callable[[Sequence[Method]], Any] = iter,
) -> list[Accuracy]:
    """Encode `sentences` by each of these methods on `xp` (`numpy` or `cupy`); `progress` wraps them."""
    weights = {name: xp.asarray(w) for name, w in model.weights.items()}
    truth = Truth(model, weights, sentences, xp)
    activations = Truth(model, weights, list(CALIBRATION), xp).activations()
    found = []
    for method in progress(chosen):
        start = time.perf_counter()
        quantized = quantized_linears(weights, truth.names, method, activations)
        if xp is not np:
            xp.cuda.get_current_stream().synchronize()
        seconds = time.perf_counter() - start
        embedded = truth.encoder(quantized)(truth.ids, truth.mask)
        cosine = cupy.asnumpy((truth.embedded * embedded).sum(axis=1))
        errors = np.array(truth.linear_errors(quantized))
        found.append(Accuracy(method, cosine, errors, quantized.nbytes, seconds))
    return found


def format_methods(found: Sequence[Accuracy]) -> str:
    """A line a method."""
    lines = [
        "Methods: cosine similarity of the sentences to the float32 encoder; relative error of the linear",
        "layers, each given float32's inputs; weight memory; time to quantize, which includes compiling",
        f"{'method':<10}{'zeros':<10}{'mean cosine':>12}{'smallest':>10}{'mean error, %':>15}"
        f"{'MB':>8}{'seconds':>9}",
    ]
    for row in found:
        zeros = "none" if row.method.symmetric else "float16" if row.method.name == "hqq" else "uint8"
        lines.append(
            f"{row.method!s:<10}{zeros:<10}{row.cosine.mean():>12.4f}{row.cosine.min():>10.4f}"
            f"{100 * row.linear_error.mean():>15.2f}{row.nbytes / 1e6:>8.2f}{row.seconds:>9.1f}"
        )
    return "\n".join(lines)
