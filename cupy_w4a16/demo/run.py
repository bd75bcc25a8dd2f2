"""The demo from end to end: find the model, choose the device, compare, print, draw."""

from __future__ import annotations

import os
import platform
import sys
from functools import partial
from typing import Any

import numpy as np

from .. import __version__
from .._cublas import require_cublas
from .._device import check_hopper, current_device, device_name
from .._errors import UnsupportedDeviceError
from .._plot_file import check_plot
from .model_files import DemoError, find_model, load_model


def run_demo(
    *,
    model: str | None = None,
    sentences: str | None = None,
    group_size: int = 128,
    method: str = "rtn",
    awq: bool = False,
    compare: bool = False,
    device: str = "auto",
    plot: str | None = None,
) -> None:
    """Run the demo and print its report; `DemoError` says what is missing.

    `model` is a folder, `sentences` a text file, `method` that of `quantize`, `awq` whether `awq_scale` is
    used, `compare` whether all methods are compared instead, `device` `"auto"`, `"gpu"` or `"cpu"`, `plot`
    the picture to write.
    """
    from .linears import Method
    from .measure import measure
    from .methods import compare_methods, format_methods, methods
    from .plot import save_plot
    from .report import format_facts, format_report
    from .sentences import CALIBRATION, read_sentences

    if plot is not None:
        if compare:
            raise DemoError("--plot draws one method: leave out --compare, or --plot")
        check_plot(plot, DemoError)
    lines = read_sentences(sentences)
    loaded = load_model(find_model(model))
    xp, where = _choose_device(device)
    groups = "one group a column" if group_size == -1 else f"groups of {group_size}"
    facts = {"model": str(loaded.folder), "device": where, "versions": _versions()}
    if compare:
        found = compare_methods(loaded, lines, methods(group_size), xp, _progress("method"))
        facts["weights"] = f"4 bits, {groups}; activations float16; all else float32"
        facts["input"] = f"{len(lines)} sentences; awq: activations of {len(CALIBRATION)} others"
        print(f"{format_facts(facts)}\n\n{format_methods(found)}")
        return
    chosen = Method(group_size, method, symmetric=method != "hqq", awq=awq)
    result = measure(loaded, lines, chosen, xp, _progress("layer"))
    kind = "symmetric" if chosen.symmetric else "asymmetric"
    facts["weights"] = f"{kind} 4 bits ({chosen}), {groups}; activations float16; all else float32"
    facts["input"] = f"{len(lines)} sentences, {result.tokens} tokens" + (
        f"; awq: activations of {len(CALIBRATION)} others" if awq else ""
    )
    print(format_report(result, facts))
    if plot is not None:
        title = (
            f"Linear layers in 4 bits ({chosen}), {groups}: mean cosine to float32 "
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
            require_cublas("the demo")
            return cupy, f"CuPy on {device_name(number)}"
        except UnsupportedDeviceError as error:
            reason = str(error)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            reason = f"no usable GPU, {error}"
        except ImportError as error:
            raise DemoError(str(error)) from error
        if device == "gpu":
            raise DemoError(f"--device gpu: {reason}.")
    return np, f"NumPy on the CPU ({os.cpu_count()} cores; right numbers, no speed): {reason}"


def _versions() -> str:
    import cupy

    versions = {
        "cupy_w4a16": __version__,
        "CuPy": cupy.__version__,
        "NumPy": np.__version__,
        "Python": platform.python_version(),
    }
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _progress(unit: str) -> Any:
    from tqdm import tqdm

    return partial(tqdm, desc="quantizing", unit=unit, leave=False, file=sys.stderr, disable=None)
