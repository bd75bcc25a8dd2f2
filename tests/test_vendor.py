"""CUTLASS's headers: the right ones, unchanged, and not in git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import vendor

ROOT = Path(__file__).resolve().parent.parent


# The headers in the checkout


def test_git_holds_no_cutlass_file() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert "cutlass_headers/vendor.py" in names
    sign = "NVIDIA CORPORATION" + " & AFFILIATES"  # in the licence on top of every CUTLASS file
    assert [n for n in names if "/include/" in n or sign in (ROOT / n).read_text(errors="replace")] == []


def test_headers_are_those_the_kernels_include() -> None:
    assert vendor.is_current(), "kernels_src/ or the pin changed: run `python cutlass_headers/vendor.py`"


def test_tuple_size_blocks_are_gone() -> None:
    vendored = [
        vendor.INCLUDE / name for name in vendor.TUPLE_SIZE_FILES if (vendor.INCLUDE / name).is_file()
    ]
    assert vendored, "the kernels reach none of the five files any more: simplify vendor.py"
    assert [path.name for path in vendored if "struct tuple_size;" in path.read_text()] == []


def test_build_requirement_is_the_pinned_version() -> None:
    pin = vendor.read_pin()
    assert f'"{pin["package"]}=={pin["version"]}"' in (ROOT / "pyproject.toml").read_text()


# Vendoring, on a CUTLASS of a few lines


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is pinned, with kernels that reach four of its five headers."""
    texts = {
        "package/include/cute/a.hpp": '#include "beside.hpp"\n#if 0\n#  include <cutlass/b.h>\n#endif\n',
        "package/include/cute/beside.hpp": "#include <cuda_fp16.h>\n#include CUDA_STD_HEADER(tuple)\n",
        "package/include/cute/unused.hpp": "",
        "package/include/cutlass/b.h": '#include "cute/container/tuple.hpp"\n',
        "package/include/cute/container/tuple.hpp": f"before\n{vendor.TUPLE_SIZE_BLOCK}after\n",
        "package/LICENSE.txt": "licence",
        "kernels_src/gemm.cuh": '#include "own.cuh"\n#include <cute/a.hpp>\n',
        "kernels_src/own.cuh": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    digest = vendor.tree_digest(tmp_path / "package/include", tmp_path / "package/LICENSE.txt")
    pin = {"package": "p", "version": "1", "include": "include", "license": "LICENSE.txt", "sha256": digest}
    monkeypatch.setattr(vendor, "read_pin", lambda: pin)
    return tmp_path / "package"


def run_vendor(package: Path) -> tuple[Path, Path]:
    kernels_src, target = package.parent / "kernels_src", package.parent / "vendored"
    vendor.vendor(package, kernels_src, target)
    return kernels_src, target


def test_closure_is_copied_with_its_licence(package: Path) -> None:
    kernels_src, target = run_vendor(package)
    assert vendor.header_names(target) == {
        "cute/a.hpp",
        "cute/beside.hpp",
        "cutlass/b.h",
        "cute/container/tuple.hpp",
    }
    assert (target / "LICENSE.txt").read_text() == "licence"
    assert (target / "VERSION").read_text().startswith("p 1\n")
    assert (target / "cute/container/tuple.hpp").read_text() == "before\nafter\n"
    assert vendor.is_current(kernels_src, target)


def test_changed_package_is_refused(package: Path) -> None:
    _, target = run_vendor(package)
    (package / "include/cute/unused.hpp").write_text("changed")
    before = (target / "VERSION").read_text()
    with pytest.raises(vendor.VendorError, match="SHA-256"):
        run_vendor(package)
    assert (target / "VERSION").read_text() == before


def test_changed_licence_is_refused(package: Path) -> None:
    (package / "LICENSE.txt").write_text("another")
    with pytest.raises(vendor.VendorError, match="SHA-256"):
        run_vendor(package)


@pytest.mark.parametrize("change", ["edited", "lost", "extra", "new include", "pin"])
def test_stale_headers_are_noticed(package: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_src, target = run_vendor(package)
    if change == "edited":
        (target / "cute/a.hpp").write_text("edited")
    elif change == "lost":
        (target / "cutlass/b.h").unlink()
    elif change == "extra":
        (target / "cute/extra.hpp").write_text("")
    elif change == "new include":
        (kernels_src / "own.cuh").write_text("#include <cute/unused.hpp>")
    else:
        newer = {**vendor.read_pin(), "version": "2"}
        monkeypatch.setattr(vendor, "read_pin", lambda: newer)
    assert not vendor.is_current(kernels_src, target)


def test_header_cutlass_lacks_is_an_error(package: Path) -> None:
    (package.parent / "kernels_src/own.cuh").write_text("#include <cute/no_such.hpp>")
    with pytest.raises(vendor.VendorError, match=r"own\.cuh includes <cute/no_such\.hpp>"):
        run_vendor(package)


@pytest.mark.parametrize("text", ["", vendor.TUPLE_SIZE_BLOCK * 2])
def test_unexpected_tuple_size_text_is_an_error(text: str) -> None:
    with pytest.raises(vendor.VendorError, match=r"cute/container/tuple\.hpp"):
        vendor.without_tuple_size("cute/container/tuple.hpp", text)
