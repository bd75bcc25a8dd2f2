"""The parameter block and its tensor maps say what the arrays are."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import cupy
import pytest
from helpers.fake_calls import BIAS, GROUP, OUT, SCALES, ZEROS, A, B, K, M, N, arrays
from helpers.fake_driver import FakeDriver, Stream, on_gpu

from cupy_w4a16 import GemmConfig, _launch, gemm
from cupy_w4a16._paths import kernels_src


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
    assert found == _launch.Params._fields_
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
    int32, groups_of_a_stage = 3, 1  # a stage is 128 k, and so is a group
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


@pytest.mark.parametrize(("n", "zeros", "aligned_groups"), [(100, False, 0), (104, False, 1), (104, True, 0)])
def test_last_tile_that_is_no_16_bytes_wide_gets_no_bulk_copy(
    driver: FakeDriver, n: int, zeros: bool, aligned_groups: int
) -> None:
    # Rows are 16 bytes aligned, but 100 columns of float16 end 8 bytes past such an address, as 104 of uint8.
    given = arrays(n=n) | {"scales": on_gpu((8, n), "f2", SCALES, strides=(208, 2))}
    given["zeros"] = on_gpu((8, n), "u1", ZEROS, strides=(112, 1)) if zeros else None
    gemm(**given)
    assert driver.last.params["aligned_groups"] == aligned_groups


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
