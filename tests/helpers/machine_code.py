"""What a cubin holds, as NVIDIA's disassembler reads it; no GPU is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_FUNCTION = re.compile(r"^\.text\.(\S+):$")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)(\S*)")


def disassembler() -> str:
    """The path of nvdisasm, from its wheel or a toolkit."""
    wheels = (path for entry in sys.path for path in Path(entry or ".").glob("nvidia/*/bin/nvdisasm"))
    found = next(map(str, wheels), None) or shutil.which("nvdisasm")
    assert found, "nvdisasm is missing: it comes with the extra [test]"
    return found


@dataclass
class Code:
    """How often a kernel holds each instruction, by the name before its first dot.

    The producer's part begins where its warps give their registers up, the consumers' where these take them;
    what stands before both counts as the consumers'.
    """

    consumer: Counter[str] = field(default_factory=Counter)
    producer: Counter[str] = field(default_factory=Counter)


def machine_code(cubin: Path) -> dict[str, Code]:
    """The code of each kernel of a cubin."""
    command = [disassembler(), "--print-code", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Code] = {}
    part: Counter[str] = Counter()
    for line in text.splitlines():
        if named := _FUNCTION.match(line):
            code = found.setdefault(named.group(1), Code())
            part = code.consumer
        elif instruction := _INSTRUCTION.match(line):
            name, rest = instruction.groups()
            if name == "USETMAXREG":
                part = code.producer if rest.startswith(".DEALLOC") else code.consumer
            part[name] += 1
    return found
