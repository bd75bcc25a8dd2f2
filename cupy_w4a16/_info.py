"""`python -m cupy_w4a16 info`: what is installed, cached and compiled; starts no CUDA."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from . import _cache, _env, _kernels, _nvml, _paths
from ._errors import CompileError, W4A16Error
from ._printing import named_lines
from ._smem import SMEM_BYTES_RESERVED, SMEM_BYTES_SM

# A Hopper multiprocessor: https://docs.nvidia.com/cuda/hopper-tuning-guide, "Occupancy".
_SM_WARPS, _SM_CTAS = 64, 32
_QUADRANTS, _QUADRANT_REGISTERS = 4, 16384
_REGISTER_STEP = 256  # registers are given to a warp in steps of so many


def format_info() -> str:
    """Return the whole report; a part that can't be found out says why in its place."""
    parts = {
        "Versions": _versions,
        "GPUs": _gpus,
        "Folders": _folders,
        "Cache": _cached,
        "Default kernels": _default_kernels,
    }
    return "\n\n".join("\n  ".join([title, *_lines(part)]) for title, part in parts.items())


def ctas_per_sm(registers: int, threads: int, smem_bytes: int) -> int:
    """CTAs that a Hopper multiprocessor runs at once, by its registers, shared memory and warps.

    The arithmetic of NVIDIA's occupancy calculator; `registers` are a thread's, `smem_bytes` a CTA's.

    >>> ctas_per_sm(registers=168, threads=384, smem_bytes=200 * 1024), ctas_per_sm(64, 256, 32 * 1024)
    (1, 4)
    """
    warps = -(-threads // 32)
    warp_registers = -(-registers * 32 // _REGISTER_STEP) * _REGISTER_STEP
    by_registers = _QUADRANT_REGISTERS // warp_registers * _QUADRANTS // warps
    by_smem = SMEM_BYTES_SM // (smem_bytes + SMEM_BYTES_RESERVED)
    return min(by_registers, by_smem, _SM_WARPS // warps, _SM_CTAS)


def _lines(part: Callable[[], Iterable[str]]) -> list[str]:
    lines = []
    try:
        for line in part():
            lines.append(line)  # one by one, to keep what came before an error
    except (W4A16Error, OSError, ValueError) as error:
        lines.append(f"not known: {error}")
    return lines


def _versions() -> list[str]:
    return named_lines(_env.versions())


def _gpus() -> Iterator[str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = _nvml.gpus()
    visible = _nvml.visible_gpus(present, chosen)
    for gpu in present:
        major, minor = gpu.capability
        use = "runs the kernels" if gpu.capability == _nvml.HOPPER else "no Hopper GPU, can't run the kernels"
        if gpu not in visible:
            use = f"hidden by CUDA_VISIBLE_DEVICES={chosen}"
        yield f"{gpu.name}, compute capability {major}.{minor}: {use}"
    if not present:
        yield "none found by NVML: NumPy arrays work, and kernels compile"


def _folders() -> list[str]:
    return named_lines({"kernels": _place(_paths.kernels_src), "CUTLASS": _place(_paths.cutlass_include)})


def _place(find: Callable[[], Path]) -> str:
    try:
        return str(find())
    except CompileError as error:
        return f"missing: {error}"


def _cached() -> Iterator[str]:
    entries = _cache.entries()
    size = sum(entry.size_bytes for entry in entries)
    yield f"{_paths.cache_dir()}: {len(entries)} compiled unit(s), {size / 1e6:.2f} MB"
    yield f"{_env.COMPILE}: {_env.compile_mode()}"
    for entry in entries:
        yield f"{entry.path.stem}  {entry.size_bytes / 1e3:.0f} kB, NVRTC {entry.nvrtc_version}"


def _default_kernels() -> Iterator[str]:
    stored: dict[Path | None, _cache.Entry] = {entry.path: entry for entry in _cache.entries()}
    yield f"{'name':<32}{'registers':>10}{'spilled':>9}{'shared memory':>15}{'CTAs an SM':>12}"
    for unit in _kernels.default_units():
        entry = stored.get(_cache.find(unit))
        resources = {} if entry is None else {r.kernel: r for r in entry.resources}
        for kernel in _kernels.default_kernels()[unit.name]:
            used = resources.get(kernel.name)
            if used is None:
                yield f"{kernel.name:<32}{'not compiled: run python -m cupy_w4a16 compile':>46}"
                continue
            spilled = used.spill_store_bytes + used.spill_load_bytes
            ctas = ctas_per_sm(used.registers, kernel.threads, kernel.smem_bytes)
            yield f"{kernel.name:<32}{used.registers:>10}{spilled:>7} B{kernel.smem_bytes:>13} B{ctas:>12}"
