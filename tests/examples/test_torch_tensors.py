"""PyTorch tensors: the bits of CuPy's or NumPy's result, in PyTorch's memory, on PyTorch's stream."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cupy_w4a16 import Linear, gemm, quantize
from cupy_w4a16.examples.torch_tensors import TorchLinear, as_array, main, torch_gemm, torch_stream
from cupy_w4a16.testing import make_problem

M, N, K = 5, 72, 256
DTYPES = ["float16", "bfloat16"]


class Tensor:
    """As much of `torch.Tensor` as the example asks for: one on the host."""

    is_cuda, device = False, "cpu"

    def __init__(self, array: Any) -> None:
        self.array = array

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)

    def detach(self) -> Tensor:
        return Tensor(self.array)

    def view(self, dtype: Any) -> Tensor:
        return Tensor(self.array.view(dtype))

    def numpy(self) -> Any:
        if self.dtype == ml_dtypes.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def fake_torch() -> Any:
    torch: Any = ModuleType("torch")
    torch.float16, torch.float32, torch.int16 = (np.dtype(x) for x in ("float16", "float32", "int16"))
    torch.bfloat16 = np.dtype(ml_dtypes.bfloat16)
    torch.empty = lambda shape, dtype, device: Tensor(np.empty(shape, dtype))
    return torch


@pytest.fixture(params=["fake", "real"])
def torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "real":
        return pytest.importorskip("torch")
    module = fake_torch()
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


def tensor(torch: Any, array: Any, device: str = "cpu") -> Any:
    """A tensor of an array's numbers; bfloat16, which PyTorch does not take from NumPy, as its bits."""
    if not hasattr(torch, "from_numpy"):
        return Tensor(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def bits(x: Any) -> Any:
    x = x.get() if hasattr(x, "get") else x
    return np.ascontiguousarray(x).view(np.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_on_the_host_give_numpys_bits(torch: Any, dtype: str) -> None:
    problem = make_problem(M, N, K, 64, dtype=dtype, zeros="integer")
    bias = make_problem(1, 1, N, dtype=dtype).a[0]
    a, b_packed, scales, zeros = (tensor(torch, x) for x in problem[:4])
    expected = bits(gemm(*problem, bias=bias, activation="silu"))
    options = {"bias": tensor(torch, bias), "activation": "silu"}
    found = torch_gemm(a, b_packed, scales, zeros, 64, **options)
    assert found.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(bits(as_array(found)), expected)
    found = TorchLinear(Linear(*problem[1:], bias=bias, activation="silu"))(a)
    np.testing.assert_array_equal(bits(as_array(found)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_written_in_its_own_memory(torch: Any, dtype: str) -> None:
    problem = make_problem(M, N, K, dtype=dtype)
    host = np.zeros((M, N), problem.a.dtype)
    out = tensor(torch, host)
    layer = TorchLinear(Linear(*problem[1:]))
    assert layer(tensor(torch, problem.a), out=out) is out
    np.testing.assert_array_equal(bits(host), bits(gemm(*problem)))


def test_result_has_the_layers_dtype(torch: Any) -> None:
    problem = make_problem(M, N, K)
    found = TorchLinear(Linear(*problem[1:], dtype="float32"))(tensor(torch, problem.a))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(as_array(found), gemm(*problem, dtype="float32"))


@pytest.mark.parametrize("has_bias", [False, True])
def test_module_is_transposed_and_keeps_its_bias(torch: Any, has_bias: bool) -> None:
    rng = np.random.default_rng(0)
    w, bias = rng.standard_normal((N, K), np.float32), rng.standard_normal(N, np.float32)
    module = SimpleNamespace(in_features=K, weight=tensor(torch, w), bias=None)
    if has_bias:
        module.bias = tensor(torch, bias)
    linear = TorchLinear.from_module(module, 64, symmetric=False).linear
    expected = quantize(w.T, 64, symmetric=False)
    for name in ("b_packed", "scales", "zeros"):
        np.testing.assert_array_equal(getattr(linear, name), getattr(expected, name))
    if has_bias:
        np.testing.assert_array_equal(linear.bias, bias.astype(np.float16))
    else:
        assert linear.bias is None


def test_weights_that_require_gradients_are_taken(torch: Any) -> None:
    if not hasattr(torch, "nn"):
        pytest.skip("only PyTorch's own tensors have gradients")
    layer = TorchLinear.from_module(torch.nn.Linear(K, N))
    assert tuple(layer(torch.ones(3, 2, K, dtype=torch.float16)).shape) == (3, 2, N)


def test_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="pip install torch"):
        main()


# On the GPU.


@pytest.fixture
def side() -> Any:
    """A stream of PyTorch's that waits for no other."""
    return pytest.importorskip("torch").cuda.Stream()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_on_the_gpu_give_cupys_bits_on_pytorchs_stream(side: Any, dtype: str) -> None:
    import cupy
    import torch

    problem = make_problem(M, N, K, 64, dtype=dtype)
    linear = Linear(*(cupy.asarray(x) for x in problem[1:3]), group_size=64)
    expected = bits(linear(cupy.asarray(problem.a)))
    a, b_packed, scales = (tensor(torch, x, "cuda") for x in problem[:3])
    late = torch.zeros_like(a)
    torch.cuda.synchronize()  # as dependent launch wants it
    before = cupy.cuda.get_current_stream().ptr
    with torch.cuda.stream(side):
        for is_warm in (False, True):  # what is loaded at first may make the host wait
            late.zero_()
            side.synchronize()
            torch.cuda._sleep(100_000_000)  # some 50 ms; a kernel on another stream would find zeros
            late.copy_(a)
            by_layer, by_gemm = TorchLinear(linear)(late), torch_gemm(late, b_packed, scales, pdl=linear.pdl)
            copies = by_layer.clone(), by_gemm.clone()
            assert not (is_warm and side.query()), "the host has waited"
    side.synchronize()
    for found in (by_layer, by_gemm, *copies):
        assert found.dtype == getattr(torch, dtype)
        np.testing.assert_array_equal(bits(as_array(found)), expected)
    assert cupy.cuda.get_current_stream().ptr == before


@pytest.mark.gpu
@pytest.mark.parametrize("on_side", [False, True])
def test_stream_is_pytorchs_current_one(side: Any, on_side: bool) -> None:
    import cupy
    import torch

    a = torch.ones(1, device="cuda")
    with torch.cuda.stream(side if on_side else torch.cuda.default_stream()), torch_stream(a):
        assert cupy.cuda.get_current_stream().ptr == torch.cuda.current_stream().cuda_stream
        assert (cupy.cuda.get_current_stream().ptr == side.cuda_stream) == on_side


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_on_the_gpu_is_written_in_its_own_memory(dtype: str) -> None:
    import cupy

    torch = pytest.importorskip("torch")
    problem = make_problem(M, N, K, dtype=dtype)
    wide = torch.full((M, N + 24), 7.0, dtype=getattr(torch, dtype), device="cuda")
    layer = TorchLinear(Linear(*(cupy.asarray(x) for x in problem[1:3])))
    out = wide[:, :N]
    assert layer(tensor(torch, problem.a, "cuda"), out=out) is out
    expected = layer(tensor(torch, problem.a, "cuda"))
    assert torch.equal(out, expected)
    assert torch.equal(wide[:, N:], torch.full_like(wide[:, N:], 7.0))
    assert out.abs().sum() > 0


@pytest.mark.gpu
def test_module_on_the_gpu_is_quantized_there() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Linear(512, 256, device="cuda")
    layer = TorchLinear.from_module(module)
    assert layer.linear.device == 0
    a = torch.randn(16, 512, device="cuda")
    with torch.no_grad():
        expected, found = module(a), layer(a.half()).float()
    # Sixteen levels between a group's extremes err by some 7 % of a uniform weight's deviation.
    assert 0.01 < float((found - expected).norm() / expected.norm()) < 0.15
