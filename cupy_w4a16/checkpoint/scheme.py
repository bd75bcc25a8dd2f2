"""How a checkpoint is quantized: its settings, or the look of its tensors, to a reader and its keywords.

Source of the keys: `GPTQConfig`, `AwqConfig` and `CompressedTensorsConfig` of Hugging Face transformers
(`utils/quantization_config.py`); `QuantizeConfig` of GPTQModel; `QuantizationConfig` of compressed-tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..formats._nibbles import PER_WORD, check_bits, shortened
from ..formats._safetensors import Entry
from .files import Settings

_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


class CheckpointScheme(NamedTuple):
    """The method, as `quant_method` calls it, keywords of its reader, and who says so.

    `act_order` is no keyword: True means that each layer must have a tensor with the group of each k.
    """

    method: str
    options: dict[str, Any]
    source: str
    act_order: bool = False

    def __str__(self) -> str:
        shown = [f"{key} {value}" for key, value in self.options.items() if value is not None]
        return ", ".join([self.method, *shown, f"by {self.source}"])


def scheme_from_settings(settings: Settings) -> CheckpointScheme:
    """The scheme that a checkpoint's settings name; ValueError where it is not served."""
    values, where = settings.values, str(settings.path)
    method = values.get("quant_method")
    served = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors}
    if not isinstance(method, str) or method not in served:
        raise ValueError(f"{where} has quant_method {method!r}: served are {', '.join(served)}")
    try:
        options = served[method](values)
    except ValueError as error:
        raise ValueError(f"{where}, quant_method {method!r}: {error}") from None
    act_order = options.pop("act_order", None) is True
    return CheckpointScheme(method, options, settings.path.name, act_order)


def scheme_from_tensors(entries: Mapping[str, Entry]) -> CheckpointScheme | None:
    """The scheme that names and shapes show; None where no tensor is quantized in a way we know.

    `why_not_plain` then tells quantized tensors from plain ones.
    """
    source = "the look of its tensors"
    for name, entry in entries.items():
        base, dot, part = name.rpartition(".")
        if part == "weight_packed":
            return CheckpointScheme("compressed-tensors", {}, source)
        scales = entries.get(f"{base}{dot}scales")
        if part == "qweight" and scales and len(entry.shape) == len(scales.shape) == 2:
            if entry.shape[1] == scales.shape[1]:
                return CheckpointScheme("gptq", {}, source)
            if entry.shape[1] * PER_WORD == scales.shape[1]:
                return CheckpointScheme("awq", {}, source)
    return None


def _gptq(values: dict[str, Any]) -> dict[str, Any]:
    """GPTQModel's v1 files carry, see `from_gptq`; it names itself in `meta`."""
    check_bits(values.get("bits"))
    kind = values.get("checkpoint_format") or values.get("format") or "gptq"
    if values.get("is_marlin_format"):
        kind = "marlin"
    if not isinstance(kind, str) or kind not in _ZERO_OFFSETS:
        raise ValueError(f"checkpoint_format is {kind!r}: served are {' and '.join(_ZERO_OFFSETS)}")
    options: dict[str, Any] = {"zero_offset": _ZERO_OFFSETS[kind]}
    meta = values.get("meta")
    options["carry"] = kind == "gptq" and isinstance(meta, dict) and "gptqmodel" in str(meta.get("quantizer"))
    options["group_size"] = _group_size(values, "group_size")
    options["symmetric"] = _flag(values, "sym")
    options["act_order"] = _flag(values, "desc_act") and options["group_size"] != -1  # one group has no order
    rules = values.get("dynamic") or {}
    if not isinstance(rules, dict):
        raise ValueError(f"dynamic is {shortened(rules)}: an object is needed")
    # What some layers have settings of their own for, the tensors of each layer say.
    own = {key for rule in rules.values() if isinstance(rule, dict) for key in rule}
    keys = {"group_size": "group_size", "sym": "symmetric", "desc_act": "act_order"}
    dropped = {option for key, option in keys.items() if key in own}
    return {option: value for option, value in options.items() if option not in dropped}


def _awq(values: dict[str, Any]) -> dict[str, Any]:
    check_bits(values.get("bits", values.get("w_bit")))
    version = values.get("version") or values.get("checkpoint_format") or values.get("format") or "gemm"
    if str(version).lower() != "gemm":
        raise ValueError(f"version is {version!r}: served is 'gemm'; gemv and others order codes otherwise")
    return {"group_size": _group_size(values, "group_size" if "group_size" in values else "q_group_size")}


def _compressed_tensors(values: dict[str, Any]) -> dict[str, Any]:
    groups = values.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise ValueError(f"config_groups is {shortened(groups)}: an object of objects is needed")
    sparsity = values.get("sparsity_config") or {}
    if not isinstance(sparsity, dict) or sparsity.get("format", "dense") != "dense":
        raise ValueError(f"sparsity_config is {shortened(sparsity)}: only dense weights are served")
    if values.get("transform_config"):
        raise ValueError("transform_config is set: weights whose activations are rotated are not served")
    found, refused = [], []
    for name, group in groups.items():
        try:
            found.append(_group(group, group.get("format") or values.get("format")))
        except ValueError as error:
            refused.append(f"config_groups[{name!r}]: {error}")
    if not found:
        raise ValueError("; ".join(refused) or "config_groups is empty")
    # Where groups of layers differ, the tensors of each layer say.
    return {key: value for key, value in found[0].items() if all(each[key] == value for each in found)}


def _group(group: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The keywords for one group of layers of compressed-tensors."""
    if kind != "pack-quantized":
        raise ValueError(f"format is {kind!r}: served is 'pack-quantized'")
    weights = group.get("weights")
    if not isinstance(weights, dict):
        raise ValueError(f"weights is {shortened(weights)}: an object is needed")
    check_bits(weights.get("num_bits"), "num_bits")
    if weights.get("type", "int") != "int":
        raise ValueError(f"type is {weights['type']!r}: served is 'int'")
    strategy = weights.get("strategy")
    if strategy not in ("group", "channel", None):
        raise ValueError(f"strategy is {strategy!r}: served are 'group' and 'channel'")
    size = -1 if strategy == "channel" else _group_size(weights, "group_size")
    symmetric, act_order = _flag(weights, "symmetric"), _makes_groups(weights.get("actorder"))
    return {"group_size": size, "symmetric": symmetric, "act_order": act_order}


def _makes_groups(actorder: Any) -> bool:
    """Whether groups are other than runs of k; for "weight", its other name "static", they are runs."""
    if actorder in (None, False, "weight", "static"):
        return False
    if actorder in (True, "group", "dynamic"):
        return True
    raise ValueError(f"actorder is {shortened(actorder)}: served are 'group', 'weight' and null")


def _group_size(values: dict[str, Any], key: str) -> int | None:
    size = values.get(key)
    if size is not None and type(size) is not int:
        raise ValueError(f"{key} is {shortened(size)}: an integer is needed")
    return size


def _flag(values: dict[str, Any], key: str) -> bool | None:
    flag = values.get(key)
    if flag is not None and type(flag) is not bool:
        raise ValueError(f"{key} is {shortened(flag)}: true or false is needed")
    return flag
