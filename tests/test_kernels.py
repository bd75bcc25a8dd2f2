"""The machine code of the kernels, as NVRTC makes it on any machine: fast instructions, nothing spilled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from helpers.cases import Case, valid
from helpers.configs import (
    CONFIGS,
    KERNEL_OPTIONS,
    NORMALISED_CONFIGS,
    TABLE,
    normalised_kernels,
    paired_kernels,
)
from helpers.machine_code import machine_code

from cupy_w4a16 import GemmConfig, _cache, _compiler, compile_kernels
from cupy_w4a16._kernels import Kernel, Unit, default_units, unit_of
from cupy_w4a16._paths import kernels_src

PAIRED = paired_kernels(every_config=True)


def together(kernels: Iterable[Kernel]) -> list[Unit]:
    """Units of several kernels each, which share the reading of the headers."""
    ordered = sorted(kernels, key=lambda kernel: kernel.config.family)
    return [unit_of(ordered[i : i + 8]) for i in range(0, len(ordered), 8)]


# More live values than registers, and an array that is indexed at run time.
LOCAL = """
extern "C" __global__ void __launch_bounds__(1024, 2) local(float *x, const int *order) {
  float v[64];
  for (int i = 0; i < 64; ++i) v[i] = x[i * 2048 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 64; ++i) x[i * 2048 + threadIdx.x] = v[order[i]] * v[63 - i];
}
"""


@pytest.fixture(scope="module", autouse=True)
def cache(request: pytest.FixtureRequest) -> Iterator[None]:
    """A cache beside pytest's own: what has not changed is not compiled again in the next run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUPY_W4A16_CACHE_DIR", str(request.config.cache.mkdir("kernels")))
        yield


def faults(unit: Unit, strictly: bool = False) -> list[str]:
    """What is wrong with the machine code of a unit's kernels; strictly, a producer's spill is too."""
    cubin = _cache.load_or_compile(unit)  # CompileError where ptxas serialised wgmma
    log = (cubin.parent / "compile.log").read_text()
    resources = {each.kernel: each for each in _compiler.parse_resources(log)}
    code = machine_code(cubin)
    assert set(resources) == set(code) == set(unit.kernels)
    found = []
    for kernel, its in code.items():
        used = resources[kernel]
        multiply = "HMMA" if kernel.startswith("w4a16_mma_") else "HGMMA"
        if not its.consumer[multiply]:
            found.append(f"{kernel} has no {multiply}")
        if local := its.consumer["LDL"] + its.consumer["STL"]:
            found.append(f"{kernel} has {local} local memory instructions in the consumers' code")
        if strictly and (used.stack_bytes or used.spill_store_bytes or used.spill_load_bytes):
            found.append(f"{kernel} spills: {used}")
    return found


def assert_without_faults(units: Iterable[Unit]) -> None:
    units = list(units)
    compile_kernels(units, progress=False)
    with ThreadPoolExecutor(2) as pool:
        found = [fault for faults_of_one in pool.map(faults, units) for fault in faults_of_one]
    assert not found, "\n".join(found)


def test_consumers_multiply_on_tensor_cores_and_use_no_local_memory() -> None:
    kernels = {case.kernel: None for case in PAIRED} | dict.fromkeys(normalised_kernels())
    assert_without_faults([*default_units(), *together(kernels)])


@pytest.mark.parametrize("unit", default_units(), ids=lambda unit: unit.name)
def test_default_kernels_spill_nothing(unit: Unit) -> None:
    assert not faults(unit, strictly=True)


def test_local_memory_spills_and_missing_hgmma_would_be_seen() -> None:
    found = faults(Unit("local", LOCAL, ("local",)), strictly=True)
    for fault, words in zip(found, ("no HGMMA", "local memory", "spills"), strict=True):
        assert words in fault


@pytest.mark.parametrize(
    ("header", "config"),
    [
        ("gemm.cuh", GemmConfig(128, 128)),
        (
            "decode.cuh",
            GemmConfig(32, 8, family="mma", scale_on="accumulators", split_k_warpgroups=2, stages=2),
        ),
    ],
)
def test_header_shows_a_config_as_it_is_written(header: str, config: GemmConfig) -> None:
    shown = re.search(
        r"^//   struct Config \{\n(.*?)^//   \};", (kernels_src() / header).read_text(), re.M | re.S
    )
    written = re.search(r" \{\n(.*?)^\};", Kernel(config, 128, "float16", None, "float16").text, re.M | re.S)
    assert shown is not None
    assert written is not None
    lines = [line.removeprefix("//").split("//")[0].strip() for line in shown[1].splitlines()]
    assert lines == [line.strip().replace("w4a16::", "") for line in written[1].splitlines()]


@pytest.mark.parametrize("unit", default_units()[:2], ids=lambda unit: unit.name)
def test_code_is_told_apart_by_who_runs_it(unit: Unit) -> None:
    codes = machine_code(_cache.load_or_compile(unit))
    assert set(codes) == set(unit.kernels)
    for code in codes.values():
        assert code.producer["UTMALDG"], "the producer loads activations by TMA"
        assert not code.consumer["UTMALDG"]
        assert not code.producer["HGMMA"]


def test_every_config_and_pair_of_options_is_looked_at() -> None:
    assert {case.config for case in PAIRED} == set(CONFIGS) >= set(TABLE)
    for (one, its), (other, others) in product(KERNEL_OPTIONS.items(), repeat=2):
        if one < other:
            seen = {(getattr(case, one), getattr(case, other)) for case in PAIRED}
            assert seen == set(product(its, others)), (one, other)
    for name in ("group_size", "dtype", "zeros", "float32_out"):
        sharing = {getattr(case, name) for case in PAIRED if case.config and case.config.shares_block}
        assert sharing == set(KERNEL_OPTIONS[name])


def test_every_config_that_can_is_looked_at_with_normalised_scales() -> None:
    assert {kernel.config for kernel in normalised_kernels()} == set(NORMALISED_CONFIGS)
    assert len(NORMALISED_CONFIGS) > 30


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_all_options_of_every_config(config: GemmConfig) -> None:
    rows = (dict(zip(KERNEL_OPTIONS, values, strict=True)) for values in product(*KERNEL_OPTIONS.values()))
    kernels = [case.kernel for case in valid(Case(1, 1, 1, config=config, **row) for row in rows)]
    if config in NORMALISED_CONFIGS:
        symmetric = [kernel for kernel in kernels if kernel.dtype == "float16" and kernel.zeros is None]
        kernels += [replace(kernel, normalised=True) for kernel in symmetric]
    assert_without_faults(together(kernels))


# --- the oldest NVRTC ---

OLDEST = (
    "nvidia-cuda-nvrtc-cu12==12.4.*",
    "nvidia-cuda-runtime-cu12==12.4.*",
    "nvidia-cuda-cccl-cu12==12.4.*",
)

COMPILE_WITH_OLDEST = """
import ctypes, sys
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)  # found loaded, it is the one that CuPy takes
from cupy_w4a16 import _cache, _toolchain
from cupy_w4a16._kernels import default_units
tools = _toolchain.toolchain()
assert tools.nvrtc_path == sys.argv[1], tools
assert tools.nvrtc_version == tools.cudart_version == (12, 4), tools
for unit in default_units():
    print(_cache.load_or_compile(unit))
"""


@pytest.fixture(scope="module")
def oldest_cuda(request: pytest.FixtureRequest) -> Path:
    """A folder with the wheels of CUDA 12.4 that the compiler needs; they are downloaded once."""
    folder = Path(request.config.cache.mkdir("cuda-12.4"))
    if not (folder / "complete").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(folder),
            *OLDEST,
        ]
        subprocess.run([*pip, "--upgrade"], check=True)
        (folder / "complete").touch()
    return folder


@pytest.mark.slow
def test_default_kernels_with_nvrtc_12_4(oldest_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = oldest_cuda / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    path = os.pathsep.join(filter(None, (str(oldest_cuda), *sys.path)))
    environment = os.environ | {"PYTHONPATH": path, "CUPY_W4A16_COMPILE": "lazy"}
    command = [sys.executable, "-c", COMPILE_WITH_OLDEST, str(library)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    cubins = dict(zip(default_units(), map(Path, ran.stdout.split()), strict=True))
    monkeypatch.setattr(_cache, "load_or_compile", cubins.__getitem__)
    found = [fault for unit in cubins for fault in faults(unit, strictly=True)]
    assert not found, "\n".join(found)
