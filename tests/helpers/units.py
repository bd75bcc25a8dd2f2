"""What the cache compiles, as small as can be, and a toolchain of other versions."""

from __future__ import annotations

import dataclasses

import pytest

from cupy_w4a16 import _cache, _key


@dataclasses.dataclass(frozen=True)
class Unit:
    name: str = "copy"
    source: str = 'extern "C" __global__ void copy(float *out) { out[threadIdx.x] = 1.0f; }'


def unit(number: int) -> Unit:
    return Unit(
        f"fill{number}", f'extern "C" __global__ void fill{number}(float *x) {{ x[threadIdx.x] = {number}; }}'
    )


BROKEN = Unit("broken", "#error deliberate\n")


def set_toolchain(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    tools = dataclasses.replace(_key.toolchain(), **changes)
    for module in (_key, _cache):
        monkeypatch.setattr(module, "toolchain", lambda: tools)
    _key.header_digests.cache_clear()
