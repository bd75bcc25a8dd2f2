"""Another library's GPU arrays: a CuPy array that shows one of the two protocols and nothing else."""

from __future__ import annotations

from typing import Any


class Foreign:
    """What the protocols tell is `array`'s; attributes beside them, as a dtype, are given."""

    def __init__(self, array: Any, **attributes: Any) -> None:
        self._array = array
        self.__dict__.update(attributes)


class ByInterface(Foreign):
    """Speaks the CUDA array interface alone."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self._array.__cuda_array_interface__)


class ByDLPack(Foreign):
    """Speaks DLPack alone."""

    def __dlpack__(self, *args: Any, **keywords: Any) -> Any:
        return self._array.__dlpack__(*args, **keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        device_type, device = self._array.__dlpack_device__()
        return int(device_type), int(device)
