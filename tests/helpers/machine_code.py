"""What a cubin holds, as NVIDIA's disassembler reads it; no GPU is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

_FUNCTION = re.compile(r"^\.text\.(\S+):$")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")


def disassembler() -> str:
    """The path of nvdisasm, from its wheel or a toolkit."""
    wheels = (path for entry in sys.path for path in Path(entry or ".").glob("nvidia/*/bin/nvdisasm"))
    found = next(map(str, wheels), None) or shutil.which("nvdisasm")
    assert found, "nvdisasm is missing: it comes with the extra [test]"
    return found


def instructions(cubin: Path) -> dict[str, Counter[str]]:
    """How often each function of a cubin holds each instruction, by the name before its first dot."""
    command = [disassembler(), "--print-code", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Counter[str]] = {}
    function: Counter[str] = Counter()
    for line in text.splitlines():
        if named := _FUNCTION.match(line):
            function = found.setdefault(named.group(1), Counter())
        elif instruction := _INSTRUCTION.match(line):
            function[instruction.group(1)] += 1
    return found
