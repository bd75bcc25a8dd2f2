"""Tensors outside of the layers: plain arrays, but for those that are part of something quantized."""

from __future__ import annotations

from collections.abc import Mapping

from ..formats._nibbles import shortened
from ..formats._safetensors import Entry

_CODES = ("qweight", "weight_packed")
#: Parts that only quantized layers have, and those that mean it beside one of them.
_OWN = (*_CODES, "qzeros", "g_idx", "weight_shape", "weight_zero_point", "weight_g_idx")
_SHARED = ("scales", "weight_scale")
_BYTES = ("I8", "U8")
_SERVED = (
    "served are, with scales (groups, n), GPTQ's qweight (k / 8, n) and that of AWQ's version gemm, "
    "(k, n / 8), and weight_packed (n, k / 8) of compressed-tensors"
)


def why_not_plain(name: str, entries: Mapping[str, Entry]) -> str | None:
    """Why the tensor, which no layer has, is no plain array but of a quantized layer; None if it is plain."""
    prefix = name[: name.rfind(".") + 1]
    part = name[len(prefix) :]
    if part not in (*_OWN, *_SHARED, "weight"):
        return None
    beside = {
        each: entries[prefix + each] for each in (*_OWN, *_SHARED, "weight") if prefix + each in entries
    }
    shown = ", ".join(f"{each} {entry.dtype} {shortened(entry.shape)}" for each, entry in beside.items())
    weight = beside.get("weight")
    if weight and "weight_scale" in beside and (weight.dtype in _BYTES or weight.dtype.startswith("F8")):
        return f"is of a weight of 8 bits ({shown}), and only 4 bits are served"
    if part == "weight" or beside.keys().isdisjoint(_OWN):
        return None
    if beside.keys().isdisjoint(_CODES):
        codes = " or ".join(_CODES)
        return f"is of a quantized layer ({shown}) whose codes, {codes}, are missing: it is not whole"
    return f"is of a layer that is quantized in a way we don't know ({shown}): {_SERVED}"
