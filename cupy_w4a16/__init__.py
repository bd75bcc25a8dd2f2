"""4-bit weights times 16-bit activations (W4A16) on NVIDIA Hopper, for CuPy and NumPy arrays.

`gemm(a, b_packed, scales, ...)` multiplies; `quantize` makes the weights. README.md has the ten-line example.
"""

from __future__ import annotations

from ._awq_scale import ScaledWeight, awq_scale
from ._build import compile_at_import, compile_kernels
from ._cache import clear_cache
from ._choice import choose_config
from ._config import GemmConfig, GemmProblem
from ._config_table import configs
from ._errors import CompileError, UnsupportedDeviceError, W4A16Error
from ._gemm import gemm
from ._occupancy import occupancy
from ._pack import PACKED_LAYOUT_VERSION, pack, unpack
from ._paths import cache_dir
from ._quantize import QuantizedWeight, dequantize, quantize
from ._workspace import workspace_bytes
from .checkpoint import Checkpoint, load_checkpoint
from .formats import (
    PermutedWeight,
    from_awq,
    from_compressed_tensors,
    from_gguf,
    from_gptq,
    open_gguf,
)
from .linear import Linear
from .storage import load, save

__version__ = "0.1.0"

__all__ = [
    "PACKED_LAYOUT_VERSION",
    "Checkpoint",
    "CompileError",
    "GemmConfig",
    "GemmProblem",
    "Linear",
    "PermutedWeight",
    "QuantizedWeight",
    "ScaledWeight",
    "UnsupportedDeviceError",
    "W4A16Error",
    "awq_scale",
    "cache_dir",
    "choose_config",
    "clear_cache",
    "compile_kernels",
    "configs",
    "dequantize",
    "from_awq",
    "from_compressed_tensors",
    "from_gguf",
    "from_gptq",
    "gemm",
    "load",
    "load_checkpoint",
    "occupancy",
    "open_gguf",
    "pack",
    "quantize",
    "save",
    "unpack",
    "workspace_bytes",
]

compile_at_import()
