"""What reaches the CUDA driver: the parameter block, tensor maps, grid, and when they are made anew."""

from __future__ import annotations

import ctypes
import math
import re
import threading
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest
from helpers import fake_driver
from helpers.fake_driver import CLUSTER, DEPENDENT, FakeDriver, Stream, on_gpu

from cupy_w4a16 import GemmConfig, GemmProblem, W4A16Error, _gemm, _launch, _load, _workspace, gemm
from cupy_w4a16._bounded import Bounded
from cupy_w4a16._config import NAMED_CONFIGS
from cupy_w4a16._launch import grid_size
from cupy_w4a16._paths import kernels_src

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
A, B, SCALES, ZEROS, BIAS, OUT = (1 << 40, 2 << 40, 3 << 40, 4 << 40, 5 << 40, 6 << 40)
M, N, K, GROUP = 48, 512, 1024, 128
PAIR = GemmConfig(224, 128, split_k_cluster=2)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return fake_driver.install(monkeypatch)


def arrays(m: int = M, n: int = N, k: int = K, group: int = GROUP, dtype: Any = "f2") -> dict[str, Any]:
    """Good arguments of `gemm`, on no GPU."""
    rows = -(-k // group)
    return {
        "a": on_gpu((m, k), dtype, A),
        "b_packed": on_gpu((-(-n // 64), -(-k // 128), 1024), "i4", B),
        "scales": on_gpu((rows, n), dtype, SCALES),
        "group_size": group,
        "out": on_gpu((m, n), dtype, OUT),
    }


# ------------------------------------------------------------------------------------ the block


def test_params_are_the_kernels_struct_field_for_field() -> None:
    text = (kernels_src() / "params.cuh").read_text()
    body = re.search(r"struct alignas\(64\) Params \{(.*?)\n\};", text, re.S)
    assert body is not None
    kinds = {
        "TensorMap": ctypes.c_uint64 * 16,
        "int64_t": ctypes.c_int64,
        "int32_t": ctypes.c_int32,
        "float": ctypes.c_float,
    }
    declared = re.findall(r"^\s*((?:const )?\w+\*?) (\w+);", body[1], re.M)
    found = [(name, ctypes.c_void_p if kind.endswith("*") else kinds[kind]) for kind, name in declared]
    assert found == [field for field in _launch.Params._fields_ if field[0] != "padding"]
    used = sum(ctypes.sizeof(kind) for _, kind in found)
    assert ctypes.sizeof(_launch.Params) == -(-used // 64) * 64


def test_every_field_says_what_the_arrays_are(driver: FakeDriver) -> None:
    a = on_gpu((3, 5, K), "f2", A, strides=(5 * (2 * K + 32), 2 * K + 32, 2))
    b_packed = on_gpu((8, 8, 1024), "i4", B, strides=(9 * 4096, 4096, 4))
    scales = on_gpu((8, N), "f2", SCALES, strides=(2 * N + 64, 2))
    zeros = on_gpu((8, N), "i4", ZEROS, strides=(4 * N + 64, 4))
    out = on_gpu((3, 5, N), "f4", OUT, strides=(5 * (4 * N + 16), 4 * N + 16, 4))
    Stream.ptr = 0x51
    bias = on_gpu((N,), "f2", BIAS)
    options = {"bias": bias, "alpha": 0.25, "activation": "silu", "config": GemmConfig(128, 64)}
    gemm(a, b_packed, scales, zeros, GROUP, out=out, **options)
    launched = driver.last
    params = launched.params
    places = {name: params[name] for name in ("a", "b_packed", "scales", "zeros", "bias", "out")}
    assert places == {"a": A, "b_packed": B, "scales": SCALES, "zeros": ZEROS, "bias": BIAS, "out": OUT}
    names = ("a_row_bytes", "b_row_bytes", "scales_stride", "zeros_stride", "out_stride")
    assert {name: params[name] for name in names} == {
        "a_row_bytes": 2 * K + 32,
        "b_row_bytes": 9 * 4096,
        "scales_stride": N + 32,
        "zeros_stride": N + 16,
        "out_stride": N + 4,
    }
    assert (params["m"], params["n"], params["k"], params["num_groups"]) == (15, N, K, 8)
    assert (params["group_shift"], params["alpha"]) == (7, 0.25)
    assert (params["aligned_groups"], params["out_aligned"]) == (1, 1)
    float16, float32 = 6, 7
    assert params["a_tail_map"][:7] == (A, float16, K, 15, 2 * K + 32, 64, 15)
    assert params["out_map"][:5] == (OUT, float32, N, 15, 4 * N + 16)
    int32, groups_of_a_stage = 3, 128 // GROUP if GROUP < 128 else 1
    assert params["scales_map"][:7] == (SCALES, float16, N, 8, 2 * N + 64, 128, groups_of_a_stage)
    assert params["zeros_map"][:7] == (ZEROS, int32, N, 8, 4 * N + 64, 128, groups_of_a_stage)
    assert launched.stream == 0x51


@pytest.mark.parametrize(("m", "boxes"), [(256, (128, 0)), (128, (128, 0)), (300, (128, 44)), (5, (0, 5))])
def test_boxes_of_a_hold_tokens_that_exist(driver: FakeDriver, m: int, boxes: tuple[int, int]) -> None:
    gemm(**arrays(m=m), config=GemmConfig(128, 128))
    params = driver.last.params
    assert (params["a_map"][6], params["a_tail_map"][6]) == boxes


def test_multicast_boxes_are_slices_of_the_tile(driver: FakeDriver) -> None:
    gemm(**arrays(m=300), config=GemmConfig(128, 128, cluster_n=2))
    params = driver.last.params
    assert (params["a_map"][6], params["a_tail_map"]) == (64, (0,) * 16)


def test_what_is_left_out_is_null(driver: FakeDriver) -> None:
    gemm(**arrays())
    assert (driver.last.params["zeros"], driver.last.params["bias"]) == (None, None)


def test_one_group_of_all_k_is_group_0_at_every_k(driver: FakeDriver) -> None:
    given = arrays(group=K)
    gemm(**given | {"group_size": -1})
    params = driver.last.params
    assert (params["num_groups"], (K - 1) >> params["group_shift"]) == (1, 0)


@pytest.mark.parametrize(
    ("changed", "aligned_groups", "out_aligned"),
    [
        ({}, 1, 1),
        ({"out": on_gpu((M, N), "f2", OUT + 8)}, 1, 0),
        ({"out": on_gpu((M, N), "f2", OUT, strides=(2 * N + 8, 2))}, 1, 0),
        ({"scales": on_gpu((8, N), "f2", SCALES + 8)}, 0, 1),
        ({"scales": on_gpu((8, N), "f2", SCALES, strides=(2 * N + 8, 2))}, 0, 1),
        ({"zeros": on_gpu((8, N), "u1", ZEROS)}, 1, 1),
        ({"zeros": on_gpu((8, N), "u1", ZEROS + 4)}, 0, 1),
        ({"zeros": on_gpu((8, N), "u1", ZEROS, strides=(N + 8, 1))}, 0, 1),
    ],
)
def test_unaligned_arrays_are_kept_from_the_copy_engine(
    driver: FakeDriver, changed: dict[str, Any], aligned_groups: int, out_aligned: int
) -> None:
    gemm(**arrays() | changed)
    params = driver.last.params
    assert (params["aligned_groups"], params["out_aligned"]) == (aligned_groups, out_aligned)


def test_last_tile_that_is_no_16_bytes_wide_gets_no_bulk_copy(driver: FakeDriver) -> None:
    # Rows 16 bytes aligned, but 100 columns of uint8: the last tile's row is 36 bytes.
    given = arrays(n=100) | {"out": None, "scales": on_gpu((8, 100), "f2", SCALES, strides=(208, 2))}
    given["zeros"] = on_gpu((8, 100), "u1", ZEROS, strides=(112, 1))
    given["out"] = on_gpu((M, 100), "f2", OUT, strides=(208, 2))
    gemm(**given)
    assert driver.last.params["aligned_groups"] == 0


# ------------------------------------------------------------------------------------ the grid


def test_grid_is_whole_clusters_that_fit(driver: FakeDriver) -> None:
    config = GemmConfig(128, 128, cluster_n=2)
    gemm(**arrays(), config=config)
    assert driver.last.grid == (4, 1, 1)  # 512 columns are 2 tiles of two CTAs
    assert driver.last.attributes == ((4, (2, 1, 1)),)
    assert driver.last.block == (config.threads, 1, 1)
    gemm(**arrays(m=1 << 14), config=config)
    assert driver.last.grid == (132, 1, 1)


def test_launch_without_clusters_has_no_attributes(driver: FakeDriver) -> None:
    gemm(**arrays(), config=GemmConfig(128, 64))
    assert driver.last.attributes == ()


@pytest.mark.parametrize("cluster", [{}, {"cluster_n": 2}, {"cluster_n": 2, "cluster_m": 2}])
@pytest.mark.parametrize("pdl", [False, True])
def test_attributes_say_clusters_and_dependence(
    driver: FakeDriver, cluster: dict[str, Any], pdl: bool
) -> None:
    config = GemmConfig(128, 128, **cluster)
    gemm(**arrays(), config=config, pdl=pdl)
    expected = [(CLUSTER, (config.cluster_size, 1, 1))] if cluster else []
    assert driver.last.attributes == (*expected, *[(DEPENDENT, (1,))] * pdl)


def test_environment_switches_dependence_off(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_PDL", "0")
    for _ in range(2):
        gemm(**arrays(), pdl=True, config=GemmConfig(128, 64))
        assert driver.last.attributes == ()


@pytest.mark.parametrize(
    ("config", "max_clusters", "expected"),
    [
        (GemmConfig(128, 128), 132, 132),  # persistent
        (GemmConfig(128, 128), 10_000, 64 * 32),
        (GemmConfig(128, 128, cluster_n=2, cluster_m=2), 33, 132),
        (GemmConfig(64, 64, split_k_cluster=2), 66, 2 * 128 * 64),  # a cluster for every tile
    ],
)
def test_grid_size(config: GemmConfig, max_clusters: int, expected: int) -> None:
    assert grid_size(config, GemmProblem(4096, 8192, 4096), max_clusters) == expected


@pytest.mark.parametrize(("n", "tiles"), [(1, 1), (193, 1), (448, 1), (449, 2)])
def test_pairs_of_ctas_that_share_a_block_fill_the_grid(driver: FakeDriver, n: int, tiles: int) -> None:
    gemm(**arrays(n=n, m=200), config=PAIR)
    assert driver.last.grid == (tiles * 2 * 2, 1, 1)  # 200 tokens are two tiles, of two CTAs each
    assert driver.last.attributes == ((CLUSTER, (2, 1, 1)),)


def test_stages_of_half_a_block_more_bring_scales_of_whole_blocks(driver: FakeDriver) -> None:
    gemm(**arrays(n=448), config=PAIR)
    assert driver.last.params["scales_map"][5:7] == (256, 1)


# ------------------------------------------------------------------------------------ what is remembered


def test_call_seen_before_encodes_nothing(driver: FakeDriver) -> None:
    given = arrays()
    gemm(**given)
    maps = driver.maps
    for _ in range(3):
        assert gemm(**given) is given["out"]
    assert (driver.maps, len(driver.launches)) == (maps, 4)
    assert driver.launches[0] == driver.last


def changes() -> list[tuple[str, dict[str, Any]]]:
    """What makes a call another one that lies at the same addresses, or all but one of them."""
    half = arrays(dtype=BFLOAT16) | {"bias": on_gpu((N,), BFLOAT16, BIAS)}
    narrow = {"zeros": on_gpu((8, N - 64), "u1", ZEROS), "bias": on_gpu((N - 64,), "f2", BIAS)}
    return [
        ("fewer rows", {"a": on_gpu((M - 1, K), "f2", A), "out": on_gpu((M - 1, N), "f2", OUT)}),
        ("row stride of a", {"a": on_gpu((M, K), "f2", A, strides=(2 * K + 16, 2))}),
        ("row stride of out", {"out": on_gpu((M, N), "f2", OUT, strides=(2 * N + 16, 2))}),
        ("another k", arrays(k=K - 8)),
        ("another n", arrays(n=N - 64) | narrow),
        ("bfloat16", half),
        ("float32 out", {"out": on_gpu((M, N), "f4", OUT)}),
        ("alpha", {"alpha": 0.0}),
        ("symmetric", {"zeros": None}),
        ("other zeros", {"zeros": on_gpu((8, N), "u1", ZEROS + (1 << 30))}),
        ("wider zeros", {"zeros": on_gpu((8, N), "i4", ZEROS)}),
        ("zeros apart", {"zeros": on_gpu((8, N), "u1", ZEROS, strides=(N + 16, 1))}),
        ("no bias", {"bias": None}),
        ("other bias", {"bias": on_gpu((N,), "f2", BIAS + (1 << 30))}),
        ("activation", {"activation": "relu"}),
        ("groups", {"group_size": 256, "scales": on_gpu((4, N), "f2", SCALES), "zeros": None}),
        ("config", {"config": GemmConfig(128, 32)}),
        ("dependent", {"pdl": True}),
        ("other a", {"a": on_gpu((M, K), "f2", A + (1 << 30))}),
        ("other out", {"out": on_gpu((M, N), "f2", OUT + (1 << 30))}),
        ("other weight", {"b_packed": on_gpu((8, 8, 1024), "i4", B + (1 << 30))}),
        ("other scales", {"scales": on_gpu((8, N), "f2", SCALES + (1 << 30))}),
        ("scales apart", {"scales": on_gpu((8, N), "f2", SCALES, strides=(2 * N + 16, 2))}),
        ("blocks apart", {"b_packed": on_gpu((8, 8, 1024), "i4", B, strides=(9 * 4096, 4096, 4))}),
    ]


@pytest.mark.parametrize("changed", [change for _, change in changes()], ids=[name for name, _ in changes()])
def test_memory_used_again_for_something_else_gets_a_launch_of_its_own(
    driver: FakeDriver, changed: dict[str, Any]
) -> None:
    before = arrays() | {"zeros": on_gpu((8, N), "u1", ZEROS), "bias": on_gpu((N,), "f2", BIAS)}
    gemm(**before)
    gemm(**before | changed)
    after = driver.last
    _gemm._plans.clear()
    _gemm._launches.clear()
    gemm(**before | changed)
    assert after == driver.last  # what it is without the call before
    gemm(**before)
    assert driver.last == driver.launches[0]


def test_minus_0_and_0_are_told_apart(driver: FakeDriver) -> None:
    signs = []
    for alpha in (0.0, -0.0, 0.0):
        gemm(**arrays(), alpha=alpha)
        signs.append(math.copysign(1, driver.last.params["alpha"]))
    assert signs == [1, -1, 1]


def test_each_stream_has_its_launch(driver: FakeDriver) -> None:
    for stream in (0, 0x51, 0x52, 0x51):
        Stream.ptr = stream
        gemm(**arrays())
        assert driver.last.stream == stream


def test_good_call_makes_no_bad_one_pass(driver: FakeDriver) -> None:
    gemm(**arrays(), alpha=1.0)
    with pytest.raises(TypeError, match="alpha"):
        gemm(**arrays(), alpha=True)
    with pytest.raises(TypeError, match="group_size"):
        gemm(**arrays() | {"group_size": 128.0})
    with pytest.raises(ValueError, match="out is on GPU 1"):
        gemm(**arrays() | {"out": on_gpu((M, N), "f2", OUT, device=1)})
    with pytest.raises(ValueError, match="out overlaps a"):
        gemm(**arrays() | {"out": on_gpu((M, N), "f2", A)})
    with pytest.raises(TypeError, match="activation"):
        gemm(**arrays(), activation=[])
    with pytest.raises(TypeError, match="config is a str"):
        gemm(**arrays(), config="w4a16_sm90_gemm_64")
    with pytest.raises(ValueError, match="tile_n is 96"):
        gemm(**arrays(), config=GemmConfig(96))
    for pdl in (1, 0, None, np.True_):  # two of them equal to a bool
        with pytest.raises(TypeError, match=r"pdl is .*pass True or False"):
            gemm(**arrays(), pdl=pdl)
    assert len(driver.launches) == 1


def test_caches_are_bounded(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gemm, "_plans", Bounded(4))
    monkeypatch.setattr(_gemm, "_launches", Bounded(4))
    for m in range(1, 20):
        gemm(**arrays(m=m))
        assert driver.last.params["m"] == m
    assert (len(_gemm._plans), len(_gemm._launches)) == (4, 4)


def test_bounded_cache_keeps_its_bound_when_threads_fill_it() -> None:
    cache = Bounded(8)

    def fill(start: int) -> None:
        for i in range(2000):
            cache.put(start + i, i)

    threads = [threading.Thread(target=fill, args=(10_000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) <= 8 + len(threads)  # each may be between its look and its entry


# ------------------------------------------------------------------------------------ unusual calls


def test_nothing_is_launched_for_an_empty_result(driver: FakeDriver) -> None:
    for m, n in ((0, N), (M, 0)):
        given = arrays(m=m, n=n)
        assert gemm(**given) is given["out"]
    assert driver.launches == []


def test_k_of_0_launches_without_a_map_of_a(driver: FakeDriver) -> None:
    gemm(**arrays(k=0) | {"bias": on_gpu((N,), "f2", BIAS)})
    assert driver.last.params["k"] == 0
    assert driver.last.params["a_map"] == driver.last.params["a_tail_map"] == (0,) * 16


def test_subclass_of_a_cupy_array_is_one(driver: FakeDriver) -> None:
    class Tagged(cupy.ndarray):
        pass

    given = arrays()
    a = Tagged((M, K), "f2", given["a"].data)
    assert gemm(**given | {"a": a}) is given["out"]
    assert driver.last.params["a"] == A


@pytest.mark.parametrize(
    "a",
    [
        on_gpu((M, K), "f2", A + 2),
        on_gpu((M, K), "f2", A, strides=(2 * K + 8, 2)),
        on_gpu((M, K), "f2", A, strides=(2, 2 * M)),
        on_gpu((6, 8, K), "f2", A, strides=(2 * K, 12 * K, 2)),
    ],
    ids=["address", "row stride", "columns", "axes"],
)
def test_a_that_cannot_be_read_in_place_is_copied(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, a: Any
) -> None:
    asked = []

    def copy(x: Any, problem: GemmProblem, workspace: Any = None) -> Any:
        asked.append((x.shape, workspace))
        return on_gpu((M, K), "f2", ZEROS)

    monkeypatch.setattr(_gemm, "aligned_copy", copy)
    given = arrays() | {"a": a, "out": on_gpu((*a.shape[:-1], N), "f2", OUT)}
    gemm(**arrays())
    for _ in range(2):
        assert gemm(**given) is given["out"]
        assert driver.last.params["a_tail_map"][0] == ZEROS
        assert (DEPENDENT, (1,)) not in driver.last.attributes
    gemm(**given, pdl=True)
    assert (DEPENDENT, (1,)) in driver.last.attributes
    assert len(asked) == 3  # what stands in a may have changed


def test_copy_is_asked_of_the_workspace(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "current_device", lambda: 0)
    seen = []

    def copy(x: Any, problem: GemmProblem, workspace: Any) -> Any:
        seen.append(workspace)
        return on_gpu((M, K), "f2", ZEROS)

    monkeypatch.setattr(_gemm, "aligned_copy", copy)
    workspace = on_gpu((M * K * 2,), "u1", BIAS)
    gemm(**arrays() | {"a": on_gpu((M, K), "f2", A + 2)}, workspace=workspace)
    assert seen[0] is workspace


# ------------------------------------------------------------------------------------ failures


def test_thread_without_a_context_gets_one(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 0)
    monkeypatch.setattr(cupy.cuda.runtime, "setDevice", bound.append)
    driver.statuses = [201]
    gemm(**arrays())
    assert (bound, len(driver.launches)) == ([0], 1)


def test_drivers_error_names_the_kernel(driver: FakeDriver) -> None:
    driver.statuses = [700]
    kernel = re.escape(NAMED_CONFIGS["w4a16_sm90_gemm_64"].name)
    with pytest.raises(W4A16Error, match=rf"launching {kernel}\w*: a planted error \(error 700\)"):
        gemm(**arrays(), config=NAMED_CONFIGS["w4a16_sm90_gemm_64"])
    gemm(**arrays())
    assert len(driver.launches) == 1


def test_kernel_not_loaded_inside_a_capture_asks_for_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from cupy_w4a16._kernels import kernel_for

    monkeypatch.setattr(_load, "is_capturing", lambda: True)
    kernel = kernel_for(GemmConfig(128, 96), GemmProblem(1, 64, 128))
    with pytest.raises(W4A16Error, match=r"warm up before the capture, by one call \(gemm"):
        _load.load(kernel, 0)


def test_stream_that_waits_for_a_capturing_one_counts_as_capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDAError(Exception):
        status = 906

    class Waiting:
        @staticmethod
        def is_capturing() -> bool:
            raise CUDAError

    monkeypatch.setattr(cupy.cuda.runtime, "CUDARuntimeError", CUDAError)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", Waiting)
    assert _load.is_capturing()
    CUDAError.status = 1
    with pytest.raises(CUDAError):
        _load.is_capturing()


def test_temporary_copy_inside_a_capture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "is_capturing", lambda: True)
    with pytest.raises(W4A16Error, match=r"pass an aligned a, or workspace=cupy.empty\(98304, 'uint8'\)"):
        _workspace.aligned_copy(on_gpu((M, K), "f2", A + 2), GemmProblem(M, N, K))
