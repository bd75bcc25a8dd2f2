"""What the benchmark measures, and what it takes for right."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cupy_w4a16 import _compiler, dequantize
from cupy_w4a16._config import GemmProblem
from cupy_w4a16.bench import BenchError, chain, device, quantizing, shapes, sweep
from cupy_w4a16.testing import make_problem

L2_BYTES = 50 << 20


@pytest.mark.parametrize("shape", shapes.MODEL_SHAPES)
def test_weights_come_cold(shape: shapes.Shape) -> None:
    size = shapes.weight_bytes(*shape, 128)
    sets = shapes.rotation(size, L2_BYTES)
    assert sets * size > 4 * L2_BYTES
    assert sets == 2 or (sets - 1) * size <= 4 * L2_BYTES  # and no more memory than that takes


def test_weight_bytes_are_those_of_the_arrays() -> None:
    for n, k, group in ((4096, 4096, 128), (70, 200, 64), (64, 128, -1)):
        problem = make_problem(1, n, k, group)
        assert shapes.weight_bytes(n, k, group) == problem.b_packed.nbytes + problem.scales.nbytes


def test_models_feed_each_layer_from_the_one_before() -> None:
    for model in shapes.MODELS:
        for before, layer in zip((model.layers[-1], *model.layers[:-1]), model.layers, strict=True):
            assert before.n >= layer.k


@pytest.mark.parametrize(
    "layers", [[(256, 256)], [(384, 256), (256, 384)], [(512, 128), (128, 512), (128, 64)]]
)
def test_chain_reads_what_the_layer_before_wrote(
    layers: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    l2_bytes = 1 << 20
    monkeypatch.setattr(chain, "cupy", np)
    monkeypatch.setattr(chain, "random_set", lambda problem, seed: SimpleNamespace(
        b_packed=seed, scales=None, zeros=None
    ))  # fmt: skip
    monkeypatch.setattr(device, "dequantize_into", lambda *_: None)
    monkeypatch.setattr(chain.machine, "l2_bytes", lambda: l2_bytes)
    model = shapes.Model("own", 1, tuple(shapes.Shape(*layer) for layer in layers))
    found = chain._layers(model, 3, "float16", 128, seed=0)
    assert sum(shapes.weight_bytes(*layer.w.shape[::-1], 128) for layer in found) > 4 * l2_bytes
    assert len({layer.packed.b_packed for layer in found}) == len(found)  # weights of their own
    for i, layer in enumerate(found):
        n, k = layers[i % len(layers)]
        assert (layer.out.shape, layer.a.shape) == ((3, n), (3, k))
        assert layer.a.ctypes.data == found[i - 1].out.ctypes.data  # the first one's: the last one's
        assert not np.shares_memory(layer.a, layer.out)


@pytest.mark.parametrize("joined", shapes.MODELS, ids=lambda model: model.name)
def test_layers_to_quantize_are_all_of_the_model(joined: shapes.Model) -> None:
    # One by one as in a checkpoint, or joined as they are multiplied: as many weights.
    assert quantizing.matrices(joined).weights == joined.blocks * sum(n * k for n, k in joined.layers)


def test_time_to_quantize_counts_every_layer_of_every_block() -> None:
    one, two = (
        quantizing.Layer(name, shapes.Shape(64, 128), count) for name, count in (("q", 1), ("k, v", 2))
    )
    model = quantizing.Matrices("tiny", 10, (one, two))
    costs = [
        quantizing.LayerCost(one, 1.5, 0.5, 3_000_000, 0.11),
        quantizing.LayerCost(two, 0.27, 0.25, 10**6, 0.1),
    ]
    line = quantizing.format_cost(model, "rtn, zeros", costs)
    # 10 * (0.5 + 2 * 0.25) s, and the 1 and 0.02 s by which first calls took longer.
    assert line.removeprefix("rtn, zeros").split() == ["10.0", "1.0", "3", "11.0", "500.0", "250.0"]
    assert len(quantizing.format_heading(model).splitlines()[-1]) == len(line)


@pytest.mark.parametrize("text", ["4096", "4096x", "0x64", "64x64x64", "64x-1", ""])
def test_mistaken_shapes_are_named(text: str) -> None:
    with pytest.raises(BenchError, match="shapes are NxK"):
        shapes.parse_shapes(text)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("zeros", [None, "integer"])
def test_error_limit_passes_rounding_and_sees_a_lost_row(dtype: str, zeros: str | None) -> None:
    k = 2048
    problem = make_problem(64, 64, k, dtype=dtype, zeros=zeros)
    a = problem.a.astype(np.float32)
    exact = a @ dequantize(*problem[1:4], problem.group_size, k=k, dtype=np.float32)
    rounded = (a @ dequantize(*problem[1:4], problem.group_size, k=k).astype(np.float32)).astype(
        problem.a.dtype
    )
    limit = sweep.error_limit(GemmProblem(64, 64, k, 128, dtype, None if zeros is None else "uint8", dtype))

    def error(c: Any) -> float:
        return math.sqrt(float(((c.astype(np.float32) - exact) ** 2).mean() / (exact**2).mean()))

    assert error(rounded) <= limit / 2
    a[:, 77] = 0
    lost = a @ dequantize(*problem[1:4], problem.group_size, k=k, dtype=np.float32)
    assert error(lost) == pytest.approx(k**-0.5, rel=0.5)
    assert limit < (
        28672**-0.5 if dtype == "float16" else k**-0.5
    )  # the longest k of the models; bfloat16: this


def test_kernels_of_the_benchmark_compile() -> None:
    compiled = _compiler.compile_source(device.unit().source, "bench")
    found = {used.kernel: used for used in compiled.resources}
    asked_for = {"bench_fill_words", "bench_rest"} | {f"bench_read_{loads}" for loads in device.READ_LOADS}
    for dtype in ("float16", "bfloat16"):
        names = ("fill_normal_{}", "fill_uniform_{}", "dequantize_{}", "dequantize_{}_to_float", "compare_{}")
        asked_for |= {f"bench_{name.format(dtype)}" for name in names}
    assert asked_for | {"bench_compare_float32"} == set(found)
    for loads in device.READ_LOADS:  # four registers a load: all of them are in flight at once
        assert found[f"bench_read_{loads}"].registers >= 4 * loads
        assert found[f"bench_read_{loads}"].spill_store_bytes == 0
