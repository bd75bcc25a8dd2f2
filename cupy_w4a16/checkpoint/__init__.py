"""4-bit checkpoints as other tools write them: `load_checkpoint`, layer by layer.

`files` finds what a path stands for, `scheme` reads its settings, `tensors` and `gguf` read layers, `plain`
tells plain arrays from parts of layers that are not served.
"""

from __future__ import annotations

from .load import Checkpoint, load_checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]
