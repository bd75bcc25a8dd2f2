"""Weights to save, whether they came back, and files of safetensors put together by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from cupy_w4a16 import Linear, QuantizedWeight, quantize

K, N = 200, 70


def weight(group_size: int = 32, symmetric: bool = True, dtype: Any = np.float16) -> QuantizedWeight:
    w = np.random.default_rng(0).standard_normal((K, N)).astype(np.float32)
    return quantize(w, group_size, symmetric=symmetric, dtype=dtype)


def linear(**options: Any) -> Linear:
    return Linear(*weight(), k=K, **options)


def same(x: Any, y: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(x, tuple):
        return type(x) is type(y) and all(same(a, b) for a, b in zip(x, y, strict=True))
    if isinstance(x, Linear):
        given, found = x._given(), y._given()
        return given.keys() == found.keys() and all(same(given[key], found[key]) for key in given)
    return type(x) is type(y) and x == y


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def file_of(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
