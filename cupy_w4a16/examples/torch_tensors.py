"""PyTorch tensors in and out, without a copy, on PyTorch's current stream; no gradients.

    python -m cupy_w4a16.examples.torch_tensors

replaces a `torch.nn.Linear`, on the GPU where there is a Hopper. PyTorch allocates the results, so that its
allocator knows what is in use on which stream; CuPy sees its tensors through DLPack.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import cupy
import ml_dtypes

from cupy_w4a16 import Linear, gemm, quantize
from cupy_w4a16.examples.hopper import has_hopper

Tensor = Any  # a torch.Tensor


class TorchLinear:
    """A `cupy_w4a16.Linear` that PyTorch code can call: `a (..., k)` to `(..., n)`, both tensors.

    >>> layer = TorchLinear.from_module(torch.nn.Linear(4096, 4096, device="cuda"))  # doctest: +SKIP
    >>> layer(torch.ones(2, 4096, dtype=torch.float16, device="cuda")).shape  # doctest: +SKIP
    torch.Size([2, 4096])
    """

    def __init__(self, linear: Linear) -> None:
        self.linear = linear

    @classmethod
    def from_module(cls, module: Any, group_size: int = 128, **options: Any) -> TorchLinear:
        """The layer of a `torch.nn.Linear`, its weight quantized; `options` are those of `quantize`."""
        with torch_stream(module.weight):
            weight = quantize(as_array(module.weight).T, group_size, **options)  # PyTorch keeps (n, k)
            bias = None if module.bias is None else as_array(module.bias).astype(weight.scales.dtype)
            return cls(Linear(*weight, k=module.in_features, bias=bias))

    def __call__(self, a: Tensor, out: Tensor | None = None) -> Tensor:
        import torch

        if out is None:
            shape, dtype = (*a.shape[:-1], self.linear.out_features), getattr(torch, self.linear.dtype.name)
            out = torch.empty(shape, dtype=dtype, device=a.device)
        with torch_stream(a):
            self.linear(as_array(a), out=as_array(out))
        return out


def torch_gemm(
    a: Tensor,
    b_packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    group_size: int | None = None,
    *,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`cupy_w4a16.gemm` of tensors; for a float32 result pass such an `out`."""
    import torch

    if out is None:
        out = torch.empty((*a.shape[:-1], scales.shape[1]), dtype=a.dtype, device=a.device)
    tensors = {"a": a, "b_packed": b_packed, "scales": scales, "zeros": zeros, "bias": bias, "out": out}
    with torch_stream(a):
        arrays = {name: as_array(tensor) for name, tensor in tensors.items() if tensor is not None}
        gemm(**arrays, group_size=group_size, **options)
    return out


def as_array(tensor: Tensor) -> Any:
    """A tensor's memory as a CuPy array, or as a NumPy array where it lies on the host."""
    import torch

    tensor = tensor.detach()
    is_bfloat16 = tensor.dtype == torch.bfloat16
    if is_bfloat16:  # not every library's DLPack knows it: its bits travel as integers
        tensor = tensor.view(torch.int16)
    array = cupy.from_dlpack(tensor) if tensor.is_cuda else tensor.numpy()
    return array.view(ml_dtypes.bfloat16) if is_bfloat16 else array


@contextlib.contextmanager
def torch_stream(tensor: Tensor) -> Iterator[None]:
    """Within this, CuPy's device is the tensor's, and its stream PyTorch's current one of that device."""
    if not tensor.is_cuda:
        yield
        return
    import torch

    current = torch.cuda.current_stream(tensor.device)
    if hasattr(current, "__cuda_stream__") and hasattr(cupy.cuda.Stream, "from_external"):
        stream = cupy.cuda.Stream.from_external(current)
    else:  # PyTorch before its streams had that method, or CuPy before 14
        stream = cupy.cuda.ExternalStream(current.cuda_stream, tensor.device.index)
    with cupy.cuda.Device(tensor.device.index), stream:
        yield


def main() -> None:
    """Print how far a quantized layer is from PyTorch's own."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit("error: this example needs PyTorch: pip install torch") from error

    device = "cuda" if torch.cuda.is_available() and has_hopper() else "cpu"
    module = torch.nn.Linear(2048, 1024, device=device)
    layer = TorchLinear.from_module(module)
    a = torch.randn(16, 2048, device=device)
    with torch.no_grad():
        expected, found = module(a), layer(a.half()).float()
    print(f"{layer.linear}: off by {float((found - expected).norm() / expected.norm()):.3f} of the result")


if __name__ == "__main__":
    main()
