"""Hatchling metadata hook: name and requirements, for CUDA 12, or for CUDA 13 with CUPY_W4A16_CUDA=13."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

NAMES = {"12": "cupy-w4a16", "13": "cupy-w4a16-cu13"}

# What a CUDA 12 requirement is called for CUDA 13, whose wheels dropped the suffix. The first match counts.
CUDA_13 = (
    (re.compile(r"^cupy-cuda12x"), "cupy-cuda13x"),
    (re.compile(r"^(nvidia-[a-z-]+)-cu12>=12\.4,<13"), r"\1>=13.0,<14"),
    (re.compile(r"^cupy-w4a16\b"), NAMES["13"]),
)


class CudaMetadataHook(MetadataHookInterface):
    """Fill the name, `dependencies` and `optional-dependencies`; the lists stand in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        cuda = chosen_cuda(Path(self.root))
        extras: dict[str, list[str]] = self.config["optional-dependencies"]
        metadata["name"] = NAMES[cuda]
        metadata["dependencies"] = requirements(self.config["dependencies"], cuda)
        metadata["optional-dependencies"] = {
            name: requirements(lines, cuda) for name, lines in extras.items()
        }


def chosen_cuda(root: Path) -> str:
    """Return "12" or "13": what the variable says, else what the sdist at `root` was made for, else "12"."""
    cuda = os.environ.get("CUPY_W4A16_CUDA")
    if not cuda:
        pkg_info = root / "PKG-INFO"
        text = pkg_info.read_text(encoding="utf-8") if pkg_info.is_file() else ""
        cuda = "13" if f"\nName: {NAMES['13']}\n" in text else "12"
    if cuda not in NAMES:
        raise ValueError(f"CUPY_W4A16_CUDA is {cuda!r}: set it to 12 or 13, or leave it unset for 12")
    return cuda


def requirements(lines: list[str], cuda: str) -> list[str]:
    """Return the requirements for that CUDA, given those for CUDA 12."""
    return list(lines) if cuda == "12" else [cuda_13_requirement(line) for line in lines]


def cuda_13_requirement(line: str) -> str:
    """Return one requirement as CUDA 13 has it; what is no CUDA package stays as it is."""
    for pattern, replacement in CUDA_13:
        if pattern.match(line):
            return pattern.sub(replacement, line)
    return line
