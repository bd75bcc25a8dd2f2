"""Quantized checkpoints of other libraries as arguments of `gemm` and `Linear`, one file a format."""

from __future__ import annotations

from ._permuted import PermutedWeight
from .awq import from_awq
from .compressed_tensors import from_compressed_tensors
from .gguf import from_gguf, open_gguf
from .gptq import from_gptq

__all__ = [
    "PermutedWeight",
    "from_awq",
    "from_compressed_tensors",
    "from_gguf",
    "from_gptq",
    "open_gguf",
]
