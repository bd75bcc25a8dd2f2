"""The table of configurations, and what can be asked of one: occupancy, workspace."""

from __future__ import annotations

from dataclasses import astuple, replace
from functools import partial
from itertools import product
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.fake_driver import no_device, on_gpu

from cupy_w4a16 import (
    GemmConfig,
    GemmProblem,
    UnsupportedDeviceError,
    _workspace,
    choose_config,
    configs,
    gemm,
    occupancy,
    workspace_bytes,
)
from cupy_w4a16._check_config import check_config, check_problem
from cupy_w4a16._checks import check_gemm
from cupy_w4a16._config_table import EXTRA_CONFIGS, LAUNCHER_CONFIGS
from cupy_w4a16._heuristics import fastest_config, serves
from cupy_w4a16._validity import invalid_reason
from cupy_w4a16._workspace import check_workspace
from cupy_w4a16.testing import make_problem

SMS = 132
# weights x tokens, clusters as the launcher writes them.
LAUNCHER = """
    64x16 1x1, 64x32 1x1, 64x64 1x1, 64x128 1x1, 64x128 1x2, 64x256 1x1, 64x256 1x2, 128x16 1x1, 128x16 2x1,
    128x32 1x1, 128x32 2x1, 128x64 1x1, 128x64 2x1, 128x128 1x1, 128x128 2x1, 128x128 1x2, 128x128 2x2,
    128x256 1x1, 128x256 2x1, 128x256 1x2, 128x256 2x2
"""


def test_launchers_21_are_there() -> None:
    expected = set()
    for entry in LAUNCHER.split(","):
        tile, cluster = (tuple(map(int, part.split("x"))) for part in entry.split())
        schedule = "pingpong" if tile[0] == 64 else "cooperative"
        expected.add(GemmConfig(*tile, cluster_n=cluster[0], cluster_m=cluster[1], schedule=schedule))
    assert len(expected) == len(LAUNCHER_CONFIGS) == 21
    assert set(LAUNCHER_CONFIGS) == expected


def test_table_names_each_configuration_once() -> None:
    table = LAUNCHER_CONFIGS + EXTRA_CONFIGS
    assert len({config.name for config in table}) == len(set(table)) == len(table)


def test_each_configuration_runs_the_common_problem() -> None:
    assert configs(GemmProblem(64, 4096, 4096)) == [*LAUNCHER_CONFIGS, *EXTRA_CONFIGS]


def test_configs_are_those_that_break_no_rule() -> None:
    hardest = GemmProblem(64, 4096, 4096, 32, "float16", "float32", "float32")
    valid = configs(hardest)
    for config in (*LAUNCHER_CONFIGS, *EXTRA_CONFIGS):
        assert (config in valid) == (invalid_reason(config, hardest) is None)


def test_config_that_is_none_or_breaks_a_rule_is_named() -> None:
    problem = GemmProblem(1, 64, 128)
    check_config(GemmConfig(), problem)
    with pytest.raises(TypeError, match="config is a str: pass a GemmConfig"):
        check_config("w4a16_sm90_gemm_128", problem)
    with pytest.raises(ValueError, match="can't run this problem: tile_m is 24; allowed are"):
        workspace_bytes(problem, GemmConfig(128, 24))
    with pytest.raises(ValueError, match="tile_m is 24"):
        occupancy(GemmConfig(128, 24))
    with pytest.raises(TypeError, match=r"config is a NoneType: pass a GemmConfig$"):
        occupancy(None)  # type: ignore[arg-type]


def test_sizes_of_numpy_are_plain_ones() -> None:
    sizes = (200_000, 64, 8192)
    small = GemmProblem(*map(np.int32, sizes), np.int16(64), np.str_("float16"))  # type: ignore[arg-type]
    assert workspace_bytes(small) == 2 * 200_000 * 8192
    plain = check_problem(small)
    assert plain == small
    kinds = [type(value) for value in astuple(plain) if value is not None]
    assert kinds == [int, int, int, int, str, str]


def test_choice_for_sizes_of_numpy_is_that_for_plain_ones() -> None:
    sizes = (1, 49_152, 65_536)  # n * k past int32
    fastest_config.cache_clear()
    chosen = choose_config(GemmProblem(*map(np.int32, sizes)), SMS)  # type: ignore[arg-type]
    remembered = choose_config(GemmProblem(*sizes), SMS)
    fastest_config.cache_clear()
    assert chosen == remembered == choose_config(GemmProblem(*sizes), SMS)


def test_occupancy_without_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", no_device)
    with pytest.raises(UnsupportedDeviceError, match="no CUDA GPU can be used: cudaErrorNoDevice"):
        occupancy(GemmConfig())


@pytest.mark.parametrize(
    "asked",
    [configs, choose_config, workspace_bytes, partial(occupancy, GemmConfig())],
    ids=["configs", "choose_config", "workspace_bytes", "occupancy"],
)
@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (ValueError, {"group_size": 100}, "group_size is 100: allowed are powers of two from 32, and -1"),
        (ValueError, {"group_size": -2}, "group_size is -2"),
        (TypeError, {"group_size": None}, "group_size is None: it must be an integer"),
        (TypeError, {"dtype": "float64"}, "dtype is 'float64': pass one of 'float16', 'bfloat16'"),
        (TypeError, {"dtype": "bf16"}, "dtype is 'bf16'"),
        (TypeError, {"dtype": np.float16}, "dtype is <class 'numpy.float16'>: pass one of"),
        (TypeError, {"dtype": np.dtype("float16")}, r"dtype is dtype\('float16'\): pass one of"),
        (TypeError, {"zeros": "integer"}, "zeros is 'integer': pass one of None, 'uint8', 'int8', 'int32', "),
        (TypeError, {"zeros": "bfloat16"}, "zeros is 'bfloat16'.*'float32', 'float16'$"),
        (ValueError, {"m": -1}, "m is -1: sizes of a product are 0 or more"),
        (TypeError, {"n": 64.0}, "n is 64.0: it must be an integer"),
        (TypeError, {"k": [128]}, r"k is \[128\]: it must be an integer"),
    ],
)
def test_problem_that_is_none_is_named(asked: Any, error: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(error, match=message):
        asked(replace(GemmProblem(16, 64, 128), **changes))
    with pytest.raises(TypeError, match="problem is a tuple: pass a GemmProblem"):
        asked((16, 64, 128))


@pytest.mark.parametrize(
    ("error", "given", "message"),
    [
        (ValueError, {"num_sms": 0}, "num_sms is 0: pass how many"),
        (TypeError, {"num_sms": 132.0}, "num_sms is 132.0: it must be an integer"),
        (TypeError, {"pdl": 1}, "pdl is 1, of type int"),
    ],
)
def test_gpu_that_is_none_is_named(error: Any, given: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        choose_config(GemmProblem(16, 64, 128), **given)


def test_stages_that_are_no_number_are_named() -> None:
    with pytest.raises(ValueError, match="stages is '4'; allowed are None, 2"):
        gemm(*make_problem(1, 64, 128), config=GemmConfig(stages="4"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("m", "n", "k", "expected"),
    [
        (3, 64, 100, 3 * 208),
        (3, 64, 104, 3 * 208),
        (1, 1, 1, 16),
        (0, 64, 100, 0),
        (3, 0, 100, 0),
        (3, 64, 0, 0),
    ],
)
def test_workspace_holds_a_with_padded_rows(m: int, n: int, k: int, expected: int) -> None:
    assert workspace_bytes(GemmProblem(m, n, k)) == expected
    assert workspace_bytes(GemmProblem(m, n, k, dtype="bfloat16", out_dtype="float32")) == expected
    assert workspace_bytes(GemmProblem(m, n, k), GemmConfig()) == expected


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a product on no GPU, whose workspace is 3 x 256 bytes."""
    from cupy_w4a16 import _device

    for module in (_device, _workspace):
        monkeypatch.setattr(module, "current_device", lambda: 0)
    monkeypatch.setattr(_device, "_hopper_devices", {0})
    return check_gemm(
        on_gpu((3, 128), "f2", 1 << 40),
        on_gpu((1, 1, 1024), "i4", 2 << 40),
        on_gpu((1, 64), "f2", 3 << 40),
        out=on_gpu((3, 64), "f2", 4 << 40),
    )


def test_workspace_of_the_right_size_passes(arguments: Any) -> None:
    workspace = on_gpu((768,), "u1", 5 << 40)
    assert check_workspace(workspace, arguments) is workspace


@pytest.mark.parametrize(
    ("error", "workspace", "message"),
    [
        (
            ValueError,
            on_gpu((767,), "u1", 5 << 40),
            r"workspace has 767 bytes, .* says 768 for m = 3 and k = 128",
        ),
        (TypeError, on_gpu((768,), "i1", 5 << 40), "workspace is int8"),
        (TypeError, on_gpu((2, 768), "u1", 5 << 40), r"of shape \(2, 768\)"),
        (TypeError, on_gpu((768,), "u1", 5 << 40, strides=(2,)), r"strides \(2,\)"),
        (ValueError, on_gpu((768,), "u1", (5 << 40) + 8), "no multiple of 16"),
        (ValueError, on_gpu((768,), "u1", 5 << 40, device=1), "workspace is on GPU 1"),
        (ValueError, on_gpu((768,), "u1", 1 << 40), "workspace overlaps a"),
        (ValueError, on_gpu((768,), "u1", (4 << 40) - 752), "workspace overlaps out"),
        (TypeError, np.empty(768, np.uint8), "workspace is a numpy array, but a is a cupy array"),
        (TypeError, bytearray(768), "workspace is of type bytearray"),
    ],
)
def test_workspace_that_cannot_serve(arguments: Any, error: Any, workspace: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        check_workspace(workspace, arguments)


def test_workspace_on_numpy_is_checked_alike() -> None:
    problem = make_problem(3, 64, 128)
    expected = gemm(*problem)
    np.testing.assert_array_equal(gemm(*problem, workspace=np.empty(768, np.uint8)), expected)
    with pytest.raises(ValueError, match="workspace has 767 bytes"):
        gemm(*problem, workspace=np.empty(767, np.uint8))


@pytest.mark.gpu
def test_occupancy_is_what_was_asked_for() -> None:
    for config in (GemmConfig(64, 128, schedule="pingpong"), GemmConfig(128, 128)):
        assert occupancy(config) == config.ctas_per_sm
    assert cupy.cuda.runtime.getDevice() == 0


@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_every_kind_of_product_has_a_config_made_for_it(group_size: int, pdl: bool) -> None:
    for dtype in ("float16", "bfloat16"):
        for zeros, out, m, n in product(
            (None, "uint8", "int8", "int32", dtype, "float32"),
            (dtype, "float32"),
            (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 1000),
            (1, 28672),
        ):
            problem = GemmProblem(m, n, 4096, group_size, dtype, zeros, out)
            config = choose_config(problem, SMS, pdl)
            assert serves(config, problem), problem
            assert invalid_reason(config, problem) is None, problem
