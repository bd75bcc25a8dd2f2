"""Small checkpoints of every format, written by the formats' definitions and by nothing of the package."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_DTYPES = {
    np.dtype(np.int32): "I32", np.dtype(np.float16): "F16", BFLOAT16: "BF16", np.dtype(np.float32): "F32",
    np.dtype(np.int64): "I64", np.dtype(np.int8): "I8", np.dtype(np.uint8): "U8",
}  # fmt: skip
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}


@dataclass(frozen=True)
class Layer:
    """One quantized layer: codes (k, n), zeros and scales (groups, n), the group of each k, and a bias."""

    codes: np.ndarray
    zeros: np.ndarray
    scales: np.ndarray
    g_idx: np.ndarray
    bias: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray:
        """(k, n) in float32, which holds a 16-bit scale times a difference of codes exactly."""
        difference = self.codes.astype(np.float32) - self.zeros[self.g_idx].astype(np.float32)
        return difference * self.scales[self.g_idx].astype(np.float32)


def layer(
    k: int, n: int, group_size: int = 32, *, seed: int = 0, symmetric: bool = False, act_order: bool = False,
    dtype: Any = np.float16, bias: bool = False,
) -> Layer:  # fmt: skip
    rng = np.random.default_rng(seed)
    group_size = k if group_size == -1 else group_size
    groups = -(-k // group_size)
    zeros = np.full((groups, n), 8) if symmetric else rng.integers(1, 16, (groups, n))
    g_idx = np.arange(k, dtype=np.int32) // group_size
    return Layer(
        rng.integers(0, 16, (k, n)).astype(np.uint8),
        zeros.astype(np.uint8),
        rng.uniform(0.001, 0.02, (groups, n)).astype(dtype),
        rng.permutation(g_idx) if act_order else g_idx,
        rng.standard_normal(n).astype(dtype) if bias else None,
    )


def words(codes: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """Eight neighbours along `axis` in an int32; the one at `order[i]` has bits 4 i to 4 i + 3."""
    codes = np.moveaxis(codes, axis, -1).astype(np.uint32)
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).reshape(codes.shape[0], -1, 8)
    packed = np.zeros(codes.shape[:2], np.uint32)
    for i, column in enumerate(order):
        packed |= codes[:, :, column] << np.uint32(4 * i)
    return np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32)


def gptq(x: Layer, offset: int = 1) -> dict[str, np.ndarray]:
    return {
        "qweight": words(x.codes, 0), "qzeros": words(x.zeros - np.uint8(offset), 1), "scales": x.scales,
        "g_idx": x.g_idx,
    }  # fmt: skip


def awq(x: Layer) -> dict[str, np.ndarray]:
    return {
        "qweight": words(x.codes, 1, AWQ_ORDER),
        "qzeros": words(x.zeros, 1, AWQ_ORDER),
        "scales": x.scales,
    }


def compressed(x: Layer) -> dict[str, np.ndarray]:
    k, n = x.codes.shape
    parts = {
        "weight_packed": words(x.codes.T, 1), "weight_scale": np.ascontiguousarray(x.scales.T),
        "weight_shape": np.array([n, k]),
    }  # fmt: skip
    if (x.zeros != 8).any():
        parts["weight_zero_point"] = words(x.zeros.T, 0)
    if (np.diff(x.g_idx) < 0).any():
        parts["weight_g_idx"] = x.g_idx
    return parts


def q4_bytes(x: Layer, minima: np.ndarray | None = None) -> bytes:
    """Blocks of Q4_0, or with `minima` of Q4_1; groups of 32, scales float16."""
    k, n = x.codes.shape
    codes = x.codes.T.reshape(n, k // 32, 2, 16)
    halves = [x.scales.T[..., None].view(np.uint8)]
    if minima is not None:
        halves.append(minima.T.astype(np.float16)[..., None].copy().view(np.uint8))
    return np.concatenate([*halves, codes[:, :, 0] | codes[:, :, 1] << 4], axis=-1).tobytes()


def safetensors_bytes(tensors: Mapping[str, np.ndarray], metadata: Any = None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, x in tensors.items():
        header[name] = {
            "dtype": _DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes],
        }  # fmt: skip
        at += x.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(x.tobytes() for x in tensors.values())


def gguf_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """GGUF 3; by name a tensor's type, its dimensions (k first) and its bytes."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    infos, body = b"", b""
    for name, (kind, shape, data) in tensors.items():
        infos += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += struct.pack("<IQ", GGUF_TYPES[kind], len(body))
        body += data + bytes(-len(data) % 32)
    architecture = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1) + architecture + infos
    return head + bytes(-len(head) % 32) + body


def named(layers: Mapping[str, dict[str, np.ndarray]], plain: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Tensors by full name."""
    tensors = {f"{name}.{part}": x for name, parts in layers.items() for part, x in parts.items()}
    return {**tensors, **plain}


def write_folder(
    folder: Path, tensors: Mapping[str, np.ndarray], settings: Any = None, shards: int = 2
) -> Path:
    """A model's folder as Hugging Face has it; tensors of a layer fall into different shards."""
    folder.mkdir(exist_ok=True)
    config = {"model_type": "llama"} | ({} if settings is None else {"quantization_config": settings})
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
        return folder
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: files[i % shards] for i, name in enumerate(tensors)}
    for file in files:
        held = {name: x for name, x in tensors.items() if weight_map[name] == file}
        (folder / file).write_bytes(safetensors_bytes(held, {"format": "pt"}))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


#: Settings as each tool writes them.
GPTQ = {
    "quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False, "desc_act": False,
    "checkpoint_format": "gptq",
}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"], "kv_cache_scheme": None, "transform_config": {}, "sparsity_config": {},
    "config_groups": {
        "group_0": {
            "targets": ["Linear"], "input_activations": None, "output_activations": None,
            "weights": {
                "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False,
                "actorder": None,
            },
        }
    },
}  # fmt: skip


def weights_scheme(**changed: Any) -> dict[str, Any]:
    """`COMPRESSED` with another scheme of weights."""
    settings: dict[str, Any] = json.loads(json.dumps(COMPRESSED))
    settings["config_groups"]["group_0"]["weights"] |= changed
    return settings
