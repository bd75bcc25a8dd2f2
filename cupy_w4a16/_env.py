"""What comes from the environment: our variables, and the versions of what is installed around us."""

from __future__ import annotations

import os
import platform
from typing import Literal, cast

CACHE_DIR = "CUPY_W4A16_CACHE_DIR"  # folder of compiled kernels, instead of the platform's user cache folder
COMPILE = "CUPY_W4A16_COMPILE"  # when the default kernels are compiled: see _COMPILE_MODES
PDL = "CUPY_W4A16_PDL"  # whether there is dependent launch at all: see _PDL_MODES
DEMO_MODEL = "CUPY_W4A16_DEMO_MODEL"  # folder of the demo's model, instead of the installed package

# What may stand in them, and what it means; the first where they are unset or empty.
_COMPILE_MODES = {
    "import": "kernels compile at import, where a Hopper GPU is found",
    "lazy": "kernels compile each at its first use",
}
_PDL_MODES = {"1": "dependent launch where calls ask for it", "0": "dependent launch never"}
_CUPYS = ("cupy-cuda12x", "cupy-cuda13x")


def compile_mode() -> Literal["import", "lazy"]:
    """`CUPY_W4A16_COMPILE`, "import" where it is unset or empty; ValueError on another word."""
    return cast(Literal["import", "lazy"], _mode(COMPILE, _COMPILE_MODES))


def pdl_allowed() -> bool:
    """`CUPY_W4A16_PDL`: False for "0", True for "1" or where it is unset or empty; else ValueError."""
    return _mode(PDL, _PDL_MODES) == "1"


def _mode(variable: str, modes: dict[str, str]) -> str:
    mode = os.environ.get(variable) or next(iter(modes))
    if mode not in modes:
        allowed = " or ".join(f"{word!r} ({meaning})" for word, meaning in modes.items())
        raise ValueError(f"{variable} is {mode!r}, but must be {allowed}; correct or unset it")
    return mode


def two_cupys() -> str | None:
    """A sentence if CuPy is installed for two CUDA versions at once, else None."""
    found = [f"{name} {version}" for name in _CUPYS if (version := installed(name))]
    if len(found) < 2:
        return None
    return (
        f"{' and '.join(found)} are both installed and overwrite each other's files: uninstall both "
        f"(pip uninstall {' '.join(_CUPYS)}), then install again the one for your CUDA"
    )


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, None if it is not there."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """What a bug report needs to name, in the order `info` prints it; asks NVML, never CUDA."""
    import cupy
    import ml_dtypes
    import numpy

    from . import __version__, _nvml

    cupys = ", ".join(name for name in _CUPYS if installed(name)) or "not from a wheel"
    return {
        "cupy_w4a16": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "cupy": f"{cupy.__version__} ({cupys})",
        "ml_dtypes": ml_dtypes.__version__,
        **_toolchain_versions(),
        "CUTLASS headers": _cutlass_version(),
        "driver": _nvml.driver_version() or "none",
    }


def _cutlass_version() -> str:
    from . import _paths
    from ._errors import CompileError

    try:
        return (_paths.cutlass_include() / "VERSION").read_text().splitlines()[0]
    except (CompileError, OSError, IndexError) as error:
        return f"missing: {error}"


def _toolchain_versions() -> dict[str, str]:
    from ._errors import CompileError
    from ._toolchain import toolchain

    try:
        tools = toolchain()
    except CompileError as error:
        return {"NVRTC": str(error)}

    def dotted(version: tuple[int, ...]) -> str:
        return ".".join(map(str, version))

    return {
        "NVRTC": f"{dotted(tools.nvrtc_version)} ({tools.nvrtc_path or 'file unknown'})",
        "CUDA headers": f"{dotted(tools.cudart_version)} ({tools.cudart_include})",
        "CCCL headers": f"{dotted(tools.cccl_version)} ({tools.cccl_include})",
    }
