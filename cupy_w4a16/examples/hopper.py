"""Whether the GPU path of an example can run here."""

from __future__ import annotations

import cupy


def has_hopper() -> bool:
    """Whether the current GPU, if there is one, is a Hopper: on others, pass NumPy arrays."""
    return cupy.cuda.is_available() and cupy.cuda.Device().compute_capability == "90"
