"""The build at import: when it compiles, and that no failure of it reaches the import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.units import BROKEN, unit

from cupy_w4a16 import _build, _cache, _kernels, _nvml
from cupy_w4a16._errors import CompileError

# A build that fails warns and compiles nothing, which must not pass for one that has nothing to compile.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a Hopper GPU and two small default kernels; the list says when NVML was asked."""
    asked: list[str] = []
    monkeypatch.setattr(_nvml, "library", lambda: object())
    monkeypatch.setattr(_nvml, "hopper_visible", lambda: asked.append("asked") or True)
    monkeypatch.setattr(_kernels, "default_units", lambda: [unit(0), unit(1)])
    return asked


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_compiles_the_default_kernels(here: list[str]) -> None:
    _build.compile_at_import()
    assert here == ["fill0", "fill1"]


@pytest.mark.usefixtures("no_workers")
def test_import_with_a_warm_cache_does_not_wait_for_nvml(here: list[str], on_hopper: list[str]) -> None:
    _build.compile_kernels()
    _build.compile_at_import()
    assert on_hopper == []
    assert len(here) == 2


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_compiles_nothing_without_a_hopper(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvml, "hopper_visible", lambda: False)
    _build.compile_at_import()
    monkeypatch.setattr(_nvml, "hopper_visible", lambda: True)
    monkeypatch.setattr(_nvml, "library", lambda: None)
    _build.compile_at_import()
    assert here == []


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_compiles_nothing_when_lazy(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_COMPILE", "lazy")
    _build.compile_at_import()
    assert here == []


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_import_for_our_command_line_leaves_compiling_to_the_command(
    here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["-m", "info"])  # as it is while -m imports the package
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "cupy_w4a16", "info"])
    _build.compile_at_import()
    assert here == []
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "their_program", "-m", "cupy_w4a16"])
    _build.compile_at_import()
    assert here == ["fill0", "fill1"]


@pytest.mark.usefixtures("no_workers", "on_hopper")
def test_failing_compile_warns_once_and_lets_the_import_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernels, "default_units", lambda: [BROKEN, unit(0)])
    with pytest.warns(RuntimeWarning, match=r"(?s)first use.*deliberate") as warned:
        _build.compile_at_import()
    assert len(warned) == 1
    assert _cache.find(unit(0))
    with pytest.raises(CompileError, match="deliberate"):
        _cache.load_or_compile(BROKEN)


@pytest.mark.usefixtures("no_workers", "on_hopper")
@pytest.mark.parametrize("error", [OSError("no such folder"), RuntimeError("who knows")])
def test_import_never_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> object:
        raise error

    monkeypatch.setattr(_kernels, "default_units", fails)
    with pytest.warns(RuntimeWarning, match=str(error)):
        _build.compile_at_import()


@pytest.mark.usefixtures("on_hopper")
def test_unknown_compile_mode_warns_at_import(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_COMPILE", "eager")
    with pytest.warns(RuntimeWarning, match="'eager'"):
        _build.compile_at_import()
    assert here == []


@pytest.mark.usefixtures("here")
def test_two_cupys_warn_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupy_w4a16._env.installed", lambda name: "14.2.0")
    with pytest.warns(RuntimeWarning, match="both installed"):
        _build.compile_at_import()


FORK_AFTER_IMPORT = """
import os
import cupy_w4a16
child = os.fork()
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
import cupy
from cupy_w4a16.testing import assert_gemm_close, make_problem
problem = make_problem(5, 72, 104)
arrays = [cupy.asarray(x) for x in problem[:3]]
c = cupy_w4a16.gemm(*arrays, config=cupy_w4a16.GemmConfig())  # a default kernel
assert_gemm_close(cupy.asnumpy(c), *problem)
print("the child is done", flush=True)
os._exit(0)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("state", ["cold", "warm", "lazy"])
def test_forked_child_can_use_the_gpu_after_import(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if state == "warm":
        _build.compile_kernels()
    if state == "lazy":
        monkeypatch.setenv("CUPY_W4A16_COMPILE", "lazy")
    command = [sys.executable, "-c", FORK_AFTER_IMPORT]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "the child is done\n"
    # The child compiles nothing but what it calls.
    assert len(_cache.entries()) == (1 if state == "lazy" else len(_kernels.default_units()))
