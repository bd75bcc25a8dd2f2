"""Where things lie: the kernels' text, CUTLASS's headers, and the folder of compiled kernels.

A wheel carries the first two inside the package; an editable install or a plain checkout has them beside it:

    wheel      cupy_w4a16/_sources/kernels_src      cupy_w4a16/_sources/cutlass_headers/include
    checkout   kernels_src                          cutlass_headers/include
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from . import _env
from ._errors import CompileError

_PACKAGE = Path(__file__).resolve().parent


def kernels_src() -> Path:
    """Return the folder of our `.cuh` files.

    Raises `CompileError` where it is missing.
    """
    return _source_folder("kernels_src", "install the package again")


def cutlass_include() -> Path:
    """Return the folder of the vendored CUTLASS headers, an `-I` of every compile.

    Raises `CompileError` in a checkout that was neither installed nor vendored.
    """
    return _source_folder(
        "cutlass_headers/include", "run `python cutlass_headers/vendor.py`, or install the package with pip"
    )


def cache_dir() -> Path:
    """Return the folder that keeps compiled kernels; it need not exist yet.

    `CUPY_W4A16_CACHE_DIR` if set and not empty, else `cupy_w4a16` in the platform's user cache folder.

    >>> cache_dir().is_absolute()
    True
    """
    chosen = os.environ.get(_env.CACHE_DIR)
    return Path(chosen).expanduser().absolute() if chosen else _user_cache_dir()


@functools.cache
def _user_cache_dir() -> Path:
    import platformdirs  # here, because a set variable needs none of it

    return platformdirs.user_cache_path("cupy_w4a16", appauthor=False)


def _source_folder(name: str, advice: str) -> Path:
    packaged = _PACKAGE / "_sources"
    folder = (packaged if packaged.is_dir() else _PACKAGE.parent) / name
    if not folder.is_dir():
        raise CompileError(f"cupy_w4a16 finds no folder {folder}: {advice}")
    return folder
