"""NVRTC: CUDA text and options become a cubin for `sm_90a`; no GPU and no driver is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from . import _paths
from ._errors import CompileError
from ._toolchain import toolchain

BASE_OPTIONS = (
    "-arch=sm_90a",  # wgmma and setmaxnreg exist in the "a" variant only; such code runs on Hopper alone
    "-std=c++17",
    "-default-device",  # CUTLASS's constexpr helpers carry no __device__
    "-DNDEBUG",  # asserts in CUTLASS's headers serialise wgmma
    "--ptxas-options=-v",  # registers, spills and stack of every kernel go to the log
)

# ptxas says C7510 and its neighbours where it serialised wgmma: right results, several times slower.
_SERIALISED = re.compile(r"^.*(?:\bC75\d\d\b|serializ).*$", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Resources:
    """What one kernel takes, a thread: registers, and bytes of stack and of spill traffic."""

    kernel: str
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int


@dataclass(frozen=True)
class Compiled:
    """A cubin, the compiler's log, and the options it was made with."""

    cubin: bytes
    log: str
    options: tuple[str, ...]

    @property
    def resources(self) -> tuple[Resources, ...]:
        return parse_resources(self.log)


def options() -> tuple[str, ...]:
    """All options of a compile; one set for all kernels, since what differs stands in the source."""
    folders = (*source_folders(), *toolchain().include_dirs)
    return BASE_OPTIONS + tuple(f"-I{folder}" for folder in folders)


def source_folders() -> tuple[Path, Path]:
    """Our headers' folder and CUTLASS's; CompileError where one is missing."""
    return _paths.kernels_src(), _paths.cutlass_include()


def compile_source(source: str, name: str) -> Compiled:
    """Compile one translation unit; CompileError carries the log when NVRTC refuses or serialises `wgmma`."""
    chosen = options()  # finds and loads NVRTC, or says what to install
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, f"{name}.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(program, list(chosen))
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program).rstrip("\0 \n")  # a C string's end, which CuPy keeps
            raise CompileError(f"{name} does not compile: {error}\n{log}", log=log) from error
        log = nvrtc.getProgramLog(program).rstrip("\0 \n")
        remark = _SERIALISED.search(log)
        if remark:
            raise CompileError(f"{name} compiles to serialised wgmma: {remark.group().strip()}", log=log)
        # CuPy takes the last byte for a string's terminator and drops it.
        return Compiled(nvrtc.getCUBIN(program) + b"\0", log, chosen)
    finally:
        nvrtc.destroyProgram(program)


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")


def parse_resources(log: str) -> tuple[Resources, ...]:
    """Read what `ptxas -v` wrote: an entry's name, then its stack and spills, then its registers."""
    found: list[Resources] = []
    kernel, function, frame = None, None, (0, 0, 0)
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            kernel, function, frame = entry.group(1), None, (0, 0, 0)
        elif named := _PROPERTIES.search(line):
            function = named.group(1)
        elif (sizes := _FRAME.search(line)) and function == kernel:
            frame = (int(sizes[1]), int(sizes[2]), int(sizes[3]))
        elif (used := _USED.search(line)) and kernel is not None:
            found.append(Resources(kernel, int(used.group(1)), *frame))
            kernel = None
    return tuple(found)
