"""The NVRTC that is really loaded, and the CUDA headers that belong to it.

One environment may hold CUDA 12 and CUDA 13 wheels and a toolkit besides, and CuPy decides which NVRTC
it loads. So the loaded library is asked for its version first, and headers of that CUDA major are looked
for after that; runtime headers of one CUDA with the C++ library (CCCL) of another do not compile.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ._errors import CompileError

OLDEST_NVRTC = (12, 4)
_DEFAULT_TOOLKITS = "/usr/local/cuda"  # and beside it cuda-12.9, cuda-13, ...


@dataclass(frozen=True)
class Toolchain:
    """NVRTC's version and file, and the include folders that go with it."""

    nvrtc_version: tuple[int, int]
    nvrtc_path: str | None
    cudart_include: Path
    cccl_include: Path
    cudart_version: tuple[int, int]
    cccl_version: tuple[int, int, int]

    @property
    def include_dirs(self) -> tuple[Path, ...]:
        return (self.cccl_include, self.cudart_include)


@functools.cache
def toolchain() -> Toolchain:
    """Find the compiler and its headers; CompileError says what to install when something is missing."""
    version, path = load_nvrtc()
    if version < OLDEST_NVRTC:
        raise CompileError(
            f"NVRTC {_dotted(version)} ({path}) is too old: {_dotted(OLDEST_NVRTC)} or newer is needed. "
            + _install_line(OLDEST_NVRTC[0])
        )
    return with_headers(version, path)


def load_nvrtc() -> tuple[tuple[int, int], str | None]:
    """NVRTC's version and file, as CuPy has it or will have it; CompileError where there is none."""
    try:
        try:
            from cupy.cuda import nvrtc

            version = nvrtc.getVersion()
        except RuntimeError:
            # CuPy 13 does not look into wheels, but takes the library that the process has loaded.
            from cuda import pathfinder

            pathfinder.load_nvidia_dynamic_lib("nvrtc")
            version = nvrtc.getVersion()
    except Exception as error:  # pathfinder, the dynamic linker and CuPy each have exceptions of their own
        raise CompileError(f"NVRTC could not be loaded: {error}. {_install_line(None)}") from error
    return (int(version[0]), int(version[1])), _loaded_library(f"libnvrtc.so.{version[0]}")


def _loaded_library(soname: str) -> str | None:
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    found = re.search(rf"(/\S*/{re.escape(soname)}\S*)$", maps, re.MULTILINE)
    return found.group(1) if found else None


def _include_candidates(major: int) -> Iterator[tuple[Path, Path]]:
    """Pairs (runtime headers, CCCL) worth looking at, best first: wheels, then toolkits."""
    for entry in sys.path:
        nvidia = Path(entry or ".") / "nvidia"
        yield nvidia / "cuda_runtime/include", nvidia / "cuda_cccl/include"
        yield nvidia / f"cu{major}/include", nvidia / f"cu{major}/include/cccl"
    roots = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX")]
    toolkits = Path(_DEFAULT_TOOLKITS)
    roots += sorted(map(str, toolkits.parent.glob(f"{toolkits.name}-{major}*")), reverse=True)
    roots += [_DEFAULT_TOOLKITS]
    for root in filter(None, roots):
        for include in (Path(root) / "include", *sorted(Path(root).glob("targets/*/include"))):
            yield include, include / "cccl"
            yield include, include
    from cuda import pathfinder

    found = [pathfinder.find_nvidia_header_directory(name) for name in ("cudart", "cccl")]
    if found[0] and found[1]:
        yield Path(found[0]), Path(found[1])


def with_headers(nvrtc: tuple[int, int], path: str | None) -> Toolchain:
    """The toolchain of this NVRTC with headers of its major; CompileError where there are none."""
    rejected = []
    for cudart, cccl in _include_candidates(nvrtc[0]):
        cudart_version, cccl_version = _cudart_version(cudart), _cccl_version(cccl)
        if cudart_version is None or cccl_version is None:
            continue
        # CCCL 2.x is CUDA 12's and 3.x is CUDA 13's; the numbers have gone up together since.
        if cudart_version[0] == nvrtc[0] and cccl_version[0] == nvrtc[0] - 10:
            return Toolchain(nvrtc, path, cudart, cccl, cudart_version, cccl_version)
        rejected.append(f"{cudart} (CUDA {_dotted(cudart_version)}, CCCL {_dotted(cccl_version)})")
    seen = f" Found, but of another CUDA: {'; '.join(dict.fromkeys(rejected))}." if rejected else ""
    raise CompileError(
        f"no CUDA {nvrtc[0]} headers for the loaded NVRTC {_dotted(nvrtc)} ({path}).{seen} "
        + _install_line(nvrtc[0])
    )


def _cudart_version(include: Path) -> tuple[int, int] | None:
    number = _macro(include / "cuda_runtime_api.h", "CUDART_VERSION")
    if number is None or not (include / "cuda_fp16.h").exists():
        return None
    return number // 1000, number % 1000 // 10


def _cccl_version(include: Path) -> tuple[int, int, int] | None:
    if not (include / "cuda/std/cstdint").exists():
        return None
    number = _macro(include / "cuda/std/__cccl/version.h", "CCCL_VERSION")
    if number is not None:
        return number // 1000000, number // 1000 % 1000, number % 1000
    number = _macro(include / "thrust/version.h", "THRUST_VERSION")  # before CCCL 2.5 gave itself a number
    return (number // 100000, number // 100 % 1000, number % 100) if number is not None else None


def _macro(header: Path, name: str) -> int | None:
    try:
        found = re.search(rf"#\s*define\s+{name}\s+(\d+)", header.read_text(errors="replace"))
    except OSError:
        return None
    return int(found.group(1)) if found else None


def _install_line(major: int | None) -> str:
    if major is not None and major >= 13:
        return "Install them with: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-cccl"
    return (
        "Install them with: pip install 'nvidia-cuda-nvrtc-cu12<13' 'nvidia-cuda-runtime-cu12<13' "
        "'nvidia-cuda-cccl-cu12<13'"
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
