"""The command line: every command runs without a GPU, says what it did, and ends with the right status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cupy_w4a16 import _info, _kernels, _nvml, _paths, save
from cupy_w4a16.__main__ import main
from cupy_w4a16._kernels import Unit
from cupy_w4a16._nvml import Gpu

pytestmark = pytest.mark.usefixtures("cache")

COMMANDS = ("info", "demo", "convert", "inspect", "bench", "tune", "compile", "clear-cache")
SMALL = Unit("small", 'extern "C" __global__ void small(float* x) { x[threadIdx.x] *= 2; }\n', ("small",))
BROKEN = Unit("broken", "this is no CUDA\n", ("broken",))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(f"\n    {command}" in printed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m cupy_w4a16 {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["inof"], ["demo", "--group-size", "many"], ["demo", "--method", "gptq"], ["compile", "now"]],
)
def test_wrong_arguments_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_info_compiles_nothing(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for expected in ("NVRTC", "CUTLASS", "GPUs", f"{cache}: 0 compiled unit(s)", "not compiled: run"):
        assert expected in printed
    assert not cache.exists()


def test_info_shows_what_a_compiled_kernel_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = next(iter(_kernels.default_kernels().values()))[0]
    stand_in = Unit("stand_in", SMALL.source.replace("small", kernel.name), (kernel.name,))
    monkeypatch.setattr(_kernels, "default_units", lambda: [stand_in])
    monkeypatch.setattr(_kernels, "default_kernels", lambda: {stand_in.name: (kernel,)})
    assert main(["compile"]) == 0
    capsys.readouterr()
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith(f"  {kernel.name} "))
    name, registers, spilled, _, smem, _, ctas = line.split()
    assert (name, spilled, smem) == (kernel.name, "0", str(kernel.smem_bytes))
    assert 4 <= int(registers) <= 32  # one load, one product, one store
    assert int(ctas) == _info.ctas_per_sm(int(registers), kernel.threads, kernel.smem_bytes)


def test_info_knows_every_default_kernel() -> None:
    for unit in _kernels.default_units():
        assert {kernel.name for kernel in _kernels.default_kernels()[unit.name]} == set(unit.kernels)


def test_info_tells_gpus_that_run_the_kernels_from_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        Gpu("Hopper", "GPU-1", (9, 0)),
        Gpu("Ada", "GPU-2", (8, 9)),
        Gpu("Another Hopper", "GPU-3", (9, 0)),
    ]
    monkeypatch.setattr(_nvml, "gpus", lambda: found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-1")
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "Hopper, compute capability 9.0: runs the kernels\n" in printed
    assert "Ada, compute capability 8.9: no Hopper GPU" in printed
    assert "Another Hopper, compute capability 9.0: hidden by CUDA_VISIBLE_DEVICES=1,GPU-1\n" in printed


def test_info_goes_on_after_a_part_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUPY_W4A16_COMPILE", "sometimes")
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "not known: CUPY_W4A16_COMPILE is 'sometimes'" in printed
    assert "Default kernels" in printed


def test_info_shows_all_that_is_there_without_cutlass_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kernels_src").mkdir()
    monkeypatch.setattr(_paths, "_PACKAGE", tmp_path / "cupy_w4a16")
    assert main(["info"]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    shown = {row[0]: row[1] for row in rows if len(row) == 2}
    missing = "missing: cupy_w4a16 finds no folder"
    assert shown["CUTLASS"].startswith(missing)  # among the folders
    assert any(row[0] == "CUTLASS" and f"headers  {missing}" in row[1] for row in rows if row)  # and versions
    assert shown["kernels"] == str(tmp_path / "kernels_src")
    assert {"python", "numpy", "cupy", "NVRTC", "driver"} <= set(shown)


def test_compile_says_which_units_were_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_kernels, "default_units", lambda: [SMALL])
    for state in ("compiled", "in the cache"):
        assert main(["compile"]) == 0
        assert capsys.readouterr().out == f"small: {state} (small)\ncache: {cache}\n"


def test_compile_error_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_kernels, "default_units", lambda: [BROKEN])
    assert main(["compile"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: broken does not compile")
    assert "Traceback" not in said


def test_clear_cache_keeps_foreign_files(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_kernels, "default_units", lambda: [SMALL])
    main(["compile"])
    (cache / "notes.txt").write_text("mine")
    capsys.readouterr()
    for count in (1, 0):
        assert main(["clear-cache"]) == 0
        assert capsys.readouterr().out == f"removed {count} compiled unit(s) from {cache}\n"
    assert (cache / "notes.txt").read_text() == "mine"


def test_ctrl_c_ends_with_a_word_and_the_shells_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(_info, "format_info", interrupt)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("command", ["info", "inspect"])
def test_output_that_nobody_reads_to_its_end_is_no_error(command: str, tmp_path: Path) -> None:
    # Enough for a buffer, so that the pipe breaks while the command prints; "info" is flushed at its end.
    path = tmp_path / "many.safetensors"
    save(path, {f"tensor {i}": np.ones(1) for i in range(1000)})
    arguments = [command, str(path)] if command == "inspect" else [command]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as nobody_reads:
        ran = subprocess.run(
            [sys.executable, "-m", "cupy_w4a16", *arguments],
            stdout=nobody_reads, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (141, "")


def test_module_runs_as_a_program() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cupy_w4a16", "clear-cache"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("removed 0 compiled unit(s)")


@pytest.mark.gpu
def test_occupancy_is_what_the_driver_says() -> None:
    import cupy
    from cupy_backends.cuda.api import driver

    from cupy_w4a16 import _cache

    for unit in _kernels.default_units():
        module = cupy.RawModule(path=str(_cache.load_or_compile(unit)))
        for kernel in _kernels.default_kernels()[unit.name]:
            function = module.get_function(kernel.name)
            function.max_dynamic_shared_size_bytes = kernel.smem_bytes
            expected = driver.occupancyMaxActiveBlocksPerMultiprocessor(
                function.kernel.ptr, kernel.threads, kernel.smem_bytes
            )
            assert _info.ctas_per_sm(function.num_regs, kernel.threads, kernel.smem_bytes) == expected
