"""Hatchling build hook: vendors CUTLASS's headers, and ships them and `kernels_src/` inside the wheel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))  # hatchling loads this file by its path
import vendor


class VendorHook(BuildHookInterface):
    """Runs before a wheel or an editable install is made; an sdist needs neither headers nor this hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        pin = vendor.read_pin()
        if not vendor.is_current():
            package = vendor.installed_package(pin)
            if package is None:
                raise vendor.VendorError(
                    f"building needs {pin['package']}=={pin['version']}: leave out --no-build-isolation, "
                    "or run `python cutlass_headers/vendor.py` first"
                )
            vendor.vendor(package)
        if version != "editable":  # an editable install reads both folders where they are
            for folder in ("kernels_src", "cutlass_headers/include"):
                build_data["force_include"][str(root / folder)] = f"cupy_w4a16/_sources/{folder}"
