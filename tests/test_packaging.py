"""What reaches the user: wheel, sdist, the CUDA 13 variant, the README, and the docstrings' examples."""

from __future__ import annotations

import contextlib
import email
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import vendor

import cupy_w4a16
from cupy_w4a16 import _paths
from cupy_w4a16._errors import W4A16Error

ROOT = Path(__file__).resolve().parent.parent


def build(kind: str, root: Path, out: Path, **environment: str) -> Path:
    """Build "wheel" or "sdist" of the tree at `root` without isolation; return the file."""
    pytest.importorskip("hatchling", reason="hatchling comes with the extra [test]")
    code = f"import sys, hatchling.build; print(hatchling.build.build_{kind}(sys.argv[1]))"
    clean = {name: value for name, value in os.environ.items() if name != "CUPY_W4A16_CUDA"}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        cwd=root,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return out / ran.stdout.split()[-1]


def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder)) as archive:
        archive.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


# Wheel and sdist


def test_wheel_ships_kernels_headers_and_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    headers = vendor.header_names(vendor.INCLUDE) | {"LICENSE.txt", "VERSION"}
    sources = {f"kernels_src/{path.name}" for path in (ROOT / "kernels_src").glob("*.cuh")}
    sources |= {f"cutlass_headers/include/{name}" for name in headers}
    shipped = {n.removeprefix("cupy_w4a16/_sources/") for n in names if n.startswith("cupy_w4a16/_sources/")}
    assert shipped == sources
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "cupy_w4a16").rglob("*.py")}
    kernels = {"cupy_w4a16/bench/kernels.cu", "cupy_w4a16/examples/decoder.cu"}
    assert names >= modules | kernels | {"cupy_w4a16/py.typed"}
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"cupy_w4a16"}


def test_unpacked_wheel_finds_its_own_sources(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from cupy_w4a16 import _paths; print(_paths.kernels_src()); print(_paths.cutlass_include())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUPY_W4A16_COMPILE": "lazy"}
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    sources = tmp_path.resolve() / "cupy_w4a16/_sources"
    assert printed.split() == [str(sources / "kernels_src"), str(sources / "cutlass_headers/include")]


def test_wheel_has_name_version_and_requirements(wheel: Path) -> None:
    metadata = wheel_metadata(wheel)
    assert (metadata["Name"], metadata["Version"]) == ("cupy-w4a16", cupy_w4a16.__version__)
    required = {
        re.split(r"[<>=; ]", line)[0] for line in metadata.get_all("Requires-Dist", []) if ";" not in line
    }
    assert required == {
        *("cupy-cuda12x", "numpy", "ml-dtypes", "cuda-pathfinder", "platformdirs", "filelock", "tqdm"),
        *("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12", "nvidia-cuda-cccl-cu12"),
    }
    assert set(metadata.get_all("Provides-Extra", [])) == {"demo", "bench", "formats", "test"}


def test_sdist_holds_all_sources_and_no_cutlass(sdist: Path) -> None:
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert not [name for name in names if name.startswith("cutlass_headers/include")]
    wanted = {"README.md", "LICENSE", "pyproject.toml", "cutlass_headers/pin.json", "tests/conftest.py"}
    for folder, pattern in (("cupy_w4a16", "*.py"), ("kernels_src", "*.cuh"), ("cutlass_headers", "*.py")):
        found = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern)}
        wanted |= {name for name in found if "/include/" not in name}
    assert wanted <= names


def test_wheel_from_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(sdist, tree)
    shutil.copytree(vendor.INCLUDE, tree / "cutlass_headers/include")  # stands in for the build requirement
    again = build("wheel", tree, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
    assert wheel_metadata(wheel).items() == wheel_metadata(again).items()


def test_cuda_13_build_has_its_own_name_and_requirements(tmp_path: Path) -> None:
    metadata = wheel_metadata(build("wheel", ROOT, tmp_path, CUPY_W4A16_CUDA="13"))
    assert metadata["Name"] == "cupy-w4a16-cu13"
    lines = metadata.get_all("Requires-Dist", [])
    assert not [line for line in lines if "cu12" in line or "cuda12" in line or ">=12" in line]
    required = {re.split(r"[<>=; ]", line)[0] for line in lines}
    assert required >= {"cupy-cuda13x", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cuda-cccl"}


def test_cuda_13_sdist_stays_cuda_13(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = pytest.importorskip("metadata_hook", reason="hatchling comes with the extra [test]")
    monkeypatch.delenv("CUPY_W4A16_CUDA", raising=False)
    assert hook.chosen_cuda(tmp_path) == "12"
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: cupy-w4a16-cu13\nVersion: 0\n")
    assert hook.chosen_cuda(tmp_path) == "13"
    monkeypatch.setenv("CUPY_W4A16_CUDA", "12")
    assert hook.chosen_cuda(tmp_path) == "12"
    monkeypatch.setenv("CUPY_W4A16_CUDA", "11")
    with pytest.raises(ValueError, match="'11': set it to 12 or 13"):
        hook.chosen_cuda(tmp_path)


# Where the package looks


def test_sources_in_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_paths, "_PACKAGE", tmp_path / "cupy_w4a16")
    beside = tmp_path / "kernels_src"
    beside.mkdir()
    assert _paths.kernels_src() == beside
    inside = tmp_path / "cupy_w4a16/_sources/kernels_src"
    inside.mkdir(parents=True)
    assert _paths.kernels_src() == inside


def test_missing_headers_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_paths, "_PACKAGE", tmp_path / "cupy_w4a16")
    with pytest.raises(W4A16Error, match=r"python cutlass_headers/vendor\.py"):
        _paths.cutlass_include()


def test_cache_dir_follows_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(tmp_path))
    assert _paths.cache_dir() == tmp_path
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", "~/somewhere")
    assert _paths.cache_dir() == Path.home() / "somewhere"
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", "")
    assert _paths.cache_dir().name == "cupy_w4a16"


# The README, and the examples


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("name", [name for name in cupy_w4a16.__all__ if callable(getattr(cupy_w4a16, name))])
def test_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (getattr(cupy_w4a16, name).__doc__ or "")


def readme_example() -> str:
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def run_example(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    return printed.getvalue()


def test_readme_example_runs_on_numpy() -> None:
    code = readme_example().replace("import cupy as cp", "import numpy as cp")
    assert run_example(code) == "(16, 2048) float16\n"


@pytest.mark.gpu
def test_readme_example_runs_as_printed() -> None:
    assert run_example(readme_example()) == "(16, 2048) float16\n"
