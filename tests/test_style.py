"""The linters' verdict, as tests, so that `pytest` alone is the whole check."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KERNELS = [f"kernels_src/{path.name}" for path in sorted((ROOT / "kernels_src").glob("*.cuh"))]
LINTERS = {
    "ruff-check": ["ruff", "check", "--quiet", "."],
    "ruff-format": ["ruff", "format", "--quiet", "--diff", "."],
    "mypy": ["mypy", "--no-error-summary"],
    "clang-format": ["clang-format", "--dry-run", "-Werror", *KERNELS],
}


@pytest.mark.parametrize("linter", LINTERS)
def test_linter_finds_nothing(linter: str) -> None:
    program, *arguments = LINTERS[linter]
    path = shutil.which(program, path=sysconfig.get_path("scripts"))
    if path is None:
        pytest.skip(f"{program} is not installed: it comes with the extra [test]")
    ran = subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(LINTERS[linter])}\n{ran.stdout}{ran.stderr}"
