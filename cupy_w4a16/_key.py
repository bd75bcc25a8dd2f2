"""What decides a cubin's bytes, made into the key of its cache entry."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ._compiler import BASE_OPTIONS, source_folders
from ._toolchain import toolchain

SCHEMA = 1  # raise it when an entry's files change their meaning
KEY_DIGITS = 24

# CUDA's own headers are many: those whose text ends up in our kernels are read, the rest goes by version.
_CUDA_HEADERS = ("cuda_fp16.h", "cuda_fp16.hpp", "cuda_bf16.h", "cuda_bf16.hpp")


@dataclass(frozen=True)
class Unit:
    """One translation unit: what NVRTC compiles at once, and the kernels that it defines, where one asks."""

    name: str
    source: str
    kernels: tuple[str, ...] = ()


def key(
    source: str,
    options: tuple[str, ...],
    nvrtc_version: tuple[int, int],
    header_digests: Mapping[str, str],
) -> str:
    """Digest of everything that decides a cubin's bytes; places of include folders are not among it."""
    parts = [SCHEMA, source, options, nvrtc_version, sorted(header_digests.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:KEY_DIGITS]


def unit_key(unit: Unit) -> str:
    """The key of a unit with the headers and the compiler of this process."""
    version = toolchain().nvrtc_version
    return key(unit.source, BASE_OPTIONS, version, header_digests())


@functools.cache
def header_digests() -> Mapping[str, str]:
    """Every header's name and digest: ours, CUTLASS's and those of CUDA; read once a process."""
    tools = toolchain()
    digests = {
        "CUDART_VERSION": ".".join(map(str, tools.cudart_version)),
        "CCCL_VERSION": ".".join(map(str, tools.cccl_version)),
    }
    for label, folder in zip(("kernels_src", "cutlass"), source_folders(), strict=True):
        for place, _, files in os.walk(folder):
            for file in files:
                path = Path(place, file)
                digests[f"{label}/{path.relative_to(folder)}"] = digest(path.read_bytes())
    for file in _CUDA_HEADERS:
        digests[file] = digest((tools.cudart_include / file).read_bytes())
    return digests


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
