"""Where the arrays of one product lie: on the current GPU, a Hopper, aligned, and clear of `out`."""

from __future__ import annotations

from typing import Any

from . import _device
from ._check_out import check_apart
from ._check_quantized import check_alignment
from ._gemm_layout import GemmLayout


def check_gpu(
    layout: GemmLayout, a: Any, b_packed: Any, scales: Any, zeros: Any, bias: Any, out: Any
) -> None:
    """ValueError for an array on another GPU, misaligned, under `out`; UnsupportedDeviceError off Hopper.

    One look at each array passes a good call. It may doubt too much, never too little; exact checks decide.
    """
    device = _device.current_device()
    low = high = 0
    doubt = False
    if out is not None:
        at = out.data
        low = at.ptr
        reach, odd = layout.spans[-1]
        high = low + reach
        doubt = at.device_id != device or low & odd
    for x, (reach, odd) in zip((a, b_packed, scales, zeros, bias), layout.spans):  # noqa: B905 (no out)
        if x is not None:
            at = x.data
            start = at.ptr
            if at.device_id != device or start & odd or reach < 0 or (start < high and low < start + reach):
                doubt = True
    if doubt:
        inputs = {"a": a, "b_packed": b_packed, "scales": scales, "zeros": zeros, "bias": bias}
        _device.check_current_device(device, {**inputs, "out": out})
        check_alignment(**inputs, out=out)
        if out is not None:
            check_apart(out, **inputs)
    _device.check_hopper(device)
