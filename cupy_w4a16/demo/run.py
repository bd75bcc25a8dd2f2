"""The demo from end to end: find the model, choose the device, compare, print, draw."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import numpy as np

from .. import __version__
from .._device import check_hopper, current_device
from .._errors import UnsupportedDeviceError
from .model_files import DemoError, find_model, load_model


def run_demo(
    *,
    model: str | None = None,
    sentences: str | None = None,
    group_size: int = 128,
    method: str = "rtn",
    device: str = "auto",
    plot: str | None = None,
) -> None:
    """Run the demo and print its report; `DemoError` says what is missing.

    `model` is a folder, `sentences` a text file, `method` that of `quantize`, `device` `"auto"`, `"gpu"` or
    `"cpu"`, `plot` the picture to write.
    """
    from .measure import compare
    from .plot import require_matplotlib, save_plot
    from .report import format_report
    from .sentences import read_sentences

    if plot is not None:
        require_matplotlib()
    lines = read_sentences(sentences)
    loaded = load_model(find_model(model))
    xp, where = _choose_device(device)
    result = compare(loaded, lines, group_size, xp, _progress, method)
    groups = "one group a column" if group_size == -1 else f"groups of {group_size}"
    kind = "asymmetric" if method == "hqq" else "symmetric"
    facts = {
        "model": str(loaded.folder),
        "device": where,
        "versions": _versions(),
        "weights": f"{kind} 4 bits ({method}), {groups}; activations float16; all else float32",
        "input": f"{len(lines)} sentences, {result.tokens} tokens",
    }
    print(format_report(result, facts))
    if plot is not None:
        title = (
            f"Linear layers in 4 bits ({method}), {groups}: mean cosine to float32 "
            f"{result.cosine.mean():.4f}, the same nearest sentence for {result.same_nearest} of {len(lines)}"
        )
        save_plot(result, plot, title)
        print(f"\nPicture: {plot}")


def _choose_device(device: str) -> tuple[Any, str]:
    """Return the array module and, in words, what it runs on."""
    import cupy

    reason = "as asked"
    if device != "cpu":
        try:
            number = current_device()
            check_hopper(number)
            _require_cublas()
            return cupy, f"CuPy on {cupy.cuda.runtime.getDeviceProperties(number)['name'].decode()}"
        except UnsupportedDeviceError as error:
            reason = str(error)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            reason = f"no usable GPU, {error}"
        if device == "gpu":
            raise DemoError(f"--device gpu: {reason}.")
    return np, f"NumPy on the CPU ({os.cpu_count()} cores; right numbers, no speed): {reason}"


def _require_cublas() -> None:
    try:
        from cupy.cuda import cublas  # noqa: F401
    except ImportError as error:
        raise DemoError(
            f"CuPy finds no cuBLAS, which its matrix products need ({error}). The extra [demo] brings it: "
            f"pip install nvidia-cublas-cu12 (for CUDA 13: nvidia-cublas)"
        ) from error


def _versions() -> str:
    import cupy

    versions = {
        "cupy_w4a16": __version__,
        "CuPy": cupy.__version__,
        "NumPy": np.__version__,
        "Python": platform.python_version(),
    }
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _progress(names: list[str]) -> Any:
    from tqdm import tqdm

    return tqdm(names, desc="quantising", unit="layer", leave=False, file=sys.stderr, disable=None)
