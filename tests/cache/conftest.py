"""A cache and headers of every test's own; compiling that costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.units import set_toolchain

from cupy_w4a16 import _cache, _compiler, _key


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and headers of this test's own; returns the folder that holds them."""
    for name in ("kernels_src", "cutlass", "cuda"):
        (tmp_path / name).mkdir()
    (tmp_path / "kernels_src/gemm.cuh").write_text("// ours\n")
    (tmp_path / "cutlass/arch").mkdir()
    (tmp_path / "cutlass/arch/barrier.h").write_text("// CUTLASS's\n")
    for name in ("cuda_fp16.h", "cuda_fp16.hpp", "cuda_bf16.h", "cuda_bf16.hpp"):
        (tmp_path / "cuda" / name).write_text(f"// {name}\n")
    monkeypatch.setattr("cupy_w4a16._paths.kernels_src", lambda: tmp_path / "kernels_src")
    monkeypatch.setattr("cupy_w4a16._paths.cutlass_include", lambda: tmp_path / "cutlass")
    set_toolchain(monkeypatch, cudart_include=tmp_path / "cuda")
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_cache, "_private_folders", [])
    return tmp_path


@pytest.fixture(autouse=True)
def fresh_digests() -> object:
    yield
    _key.header_digests.cache_clear()


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compiling costs nothing here; the names of what was compiled."""
    names: list[str] = []

    def compile_source(source: str, name: str) -> _compiler.Compiled:
        names.append(name)
        return _compiler.Compiled(f"cubin of {source}".encode(), "Compiling entry function", ("-an-option",))

    monkeypatch.setattr(_compiler, "compile_source", compile_source)
    return names
