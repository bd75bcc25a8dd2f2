"""Which configurations can run: each rule by what breaks it; and how much shared memory they take."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
import pytest
from helpers.cases import Case
from helpers.configs import KERNEL_OPTIONS, SHARING_CONFIGS
from helpers.covering import Row, covering, pairs_of

from cupy_w4a16 import CompileError, GemmConfig, GemmProblem
from cupy_w4a16._compiler import compile_source
from cupy_w4a16._kernels import Kernel, kernel_for, unit_of
from cupy_w4a16._validity import invalid_reason, is_valid


class Schedule(str, Enum):
    COOPERATIVE = "cooperative"


PROBLEM = GemmProblem(64, 4096, 4096)
PLAIN = GemmConfig(128, 128)
PINGPONG = GemmConfig(64, 128, schedule="pingpong")
SCALED_SUMS = GemmConfig(64, 64, scale_on="accumulators")
MMA = GemmConfig(32, 8, family="mma", scale_on="accumulators", split_k_warpgroups=2, stages=2)
PAIR = GemmConfig(224, 128, split_k_cluster=2)  # of CTAs, which share a block of columns
A_PAIR_IS = "tile_n is 224, where two CTAs share a block: split_k_cluster must be 2"

# A configuration that can run, what is changed of it or of the problem, and words of the reason.
BROKEN: list[tuple[GemmConfig, dict[str, Any], str]] = [
    (PLAIN, {"family": "wmma"}, "family is 'wmma'"),
    (PLAIN, {"tile_n": 112}, "tile_n is 112; allowed are 64, 96, 128"),
    (PLAIN, {"tile_k": 64}, "tile_k is 64"),
    (PLAIN, {"stages": 1}, "stages is 1; allowed are None, 2, 3, 4, 5, 6, 7, 8"),
    (PLAIN, {"stages": "4"}, "stages is '4'; allowed are None, 2"),
    (PLAIN, {"tile_n": 128.0}, "tile_n is 128.0; allowed are 64, 96, 128"),
    (PLAIN, {"tile_m": np.uint8(128)}, "tile_m is "),
    (PLAIN, {"cluster_n": True}, "cluster_n is True; allowed are 1, 2"),
    (PLAIN, {"schedule": Schedule.COOPERATIVE}, "allowed are 'cooperative', 'pingpong'"),
    (PLAIN, {"family": ["wgmma"]}, r"family is ['wgmma']"),
    (GemmConfig(64, 16, split_k_warpgroups=2), {"stages": 5}, "must be a multiple of split_k_warpgroups = 2"),
    (GemmConfig(64, 16, split_k_warpgroups=2), {"stages": 2}, "2 stages are too few"),
    (PINGPONG, {"warpgroups_n": 1}, "warpgroups_n must be None"),
    (PINGPONG, {"split_k_warpgroups": 2}, "split_k_warpgroups 1"),
    (PINGPONG, {"split_k_cluster": 2}, "pingpong's warpgroups take whole tiles in turns"),
    (PLAIN, {"warpgroups_n": 3}, "3 warpgroups can't share a stage's 128 columns"),
    (GemmConfig(192, 16), {"split_k_warpgroups": 2}, "6 consumer warpgroups would get too few registers"),
    (GemmConfig(128, 128, split_k_cluster=2), {"cluster_n": 2}, "shared by multicast, not both"),
    (
        GemmConfig(64, 8, split_k_warpgroups=2),
        {"split_k_cluster": 2},
        "4 contributors along k share tile_m = 8",
    ),
    (GemmConfig(128, 8), {"cluster_n": 2}, "each CTA brings at least 8 of tile_m = 8"),
    (SCALED_SUMS, {"tile_m": 96}, "scale_on is 'accumulators': tile_m is 96, at most 64"),
    (SCALED_SUMS, {"group_size": 32}, "which are scaled every 64 k"),
    (PLAIN, {"tile_m": 256, "warpgroups_n": 1}, "a thread would hold 256 float32 sums"),
    (GemmConfig(256, 64, warpgroups_n=4, scale_on="accumulators"), {"ctas_per_sm": 2}, "it has 48 registers"),
    (GemmConfig(192, 16), {"warpgroups_n": 1}, "the weights of 3 blocks; at most 2"),
    (PAIR, {"group_size": 32, "zeros": "float32"}, "it has 232 registers"),
    (PLAIN, {"stages": 8}, "bytes of shared memory; a CTA has"),
    (MMA, {"stages": 3}, "stages is 3; allowed are 1, 2, 4"),
    (MMA, {"stages": 2.0}, "stages is 2.0; allowed are 1, 2, 4"),
    (MMA, {"tile_n": 64}, "tile_n is 64; allowed are 16, 32"),
    (
        replace(MMA, tile_n=16, tile_m=16, ctas_per_sm=2),
        {"stages": 4},
        "bytes of shared memory; 115712 are there",
    ),
    (MMA, {"ctas_per_sm": 4, "split_k_warpgroups": 4, "stages": 1, "tile_n": 16}, "registers a thread"),
    (
        replace(MMA, tile_n=16, tile_m=16, ctas_per_sm=2),
        {"group_size": 64, "zeros": "int32"},
        "registers a thread",
    ),
    (PAIR, {"split_k_cluster": 1}, A_PAIR_IS),
    (PAIR, {"split_k_warpgroups": 2}, "split_k_warpgroups 1"),
    (PAIR, {"schedule": "pingpong"}, "and schedule 'cooperative'"),
    (PAIR, {"cluster_n": 2}, "shared by multicast, not both"),
    (PAIR, {"cluster_m": 2}, "shared by multicast, not both"),
    (PAIR, {"warpgroups_n": 3}, "3 warpgroups can't share a stage's 256 columns"),
    (PAIR, {"tile_m": 192}, "a thread would hold 192 float32 sums"),
    (PAIR, {"scale_on": "accumulators"}, "tile_m is 128, at most 64"),
    (replace(PAIR, stages=4), {"group_size": 32, "zeros": "int32"}, "bytes of shared memory; a CTA has"),
    (
        GemmConfig(160, 128, split_k_cluster=2),
        {"warpgroups_n": 2},
        "2 warpgroups can't share a stage's 192 columns",
    ),
    (
        GemmConfig(96, 16, split_k_cluster=2),
        {"warpgroups_n": 4},
        "4 warpgroups can't share a stage's 128 columns",
    ),
]


@pytest.mark.parametrize(("config", "changes", "words"), BROKEN, ids=lambda x: getattr(x, "name", str(x)))
def test_rule_that_is_broken_alone_is_named(config: GemmConfig, changes: dict[str, Any], words: str) -> None:
    assert invalid_reason(config, PROBLEM) is None
    of_problem = {name: value for name, value in changes.items() if hasattr(PROBLEM, name)}
    of_config = {name: value for name, value in changes.items() if name not in of_problem}
    reason = invalid_reason(replace(config, **of_config), replace(PROBLEM, **of_problem))
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize("tile_n", [96, 160, 224])
def test_half_a_block_more_is_whole_blocks_of_a_stage_and_of_a_pair(tile_n: int) -> None:
    config = GemmConfig(tile_n, 16, split_k_cluster=2)
    assert is_valid(config, PROBLEM)
    # The two stages overlap by one block of 64.
    assert (config.stage_n, config.cluster_tile_n, config.cluster_size) == (tile_n + 32, 2 * tile_n, 2)


# --- shared memory ---


def layout_check(kernels: list[Kernel]) -> str:
    """CUDA text that asserts the bytes of each kernel's shared memory, and defines no kernel."""
    bytes_of = "#define LAYOUT(name, Config) static_assert(sizeof(w4a16::SharedStorage<Config>)"
    source = unit_of(kernels).source.replace("\nW4A16_GEMM(", "\nLAYOUT(")
    return f"{bytes_of} == Config::kSmemBytes);\n{source}"


def layouts() -> list[Kernel]:
    """Pairs of what sizes depend on, for CTAs that share a block; test_kernels.py compiles the others."""
    names = ("group_size", "zeros", "float32_out")
    options = {"config": SHARING_CONFIGS, "stages": (None, 2, 3)} | {
        name: KERNEL_OPTIONS[name] for name in names
    }

    def made(row: Row) -> Kernel:
        case = Case(1, 1, 1, **{name: row[name] for name in names})
        return kernel_for(replace(row["config"], stages=row["stages"]), case.problem)

    def fits(row: Row) -> bool:
        kernel = made(row)
        return is_valid(kernel.config, kernel.problem)

    return [made(row) for row in covering(options, pairs_of(options), fits)]


def test_shared_memory_is_counted_as_the_compiler_does() -> None:
    kernels = layouts()
    assert {replace(kernel.config, stages=None) for kernel in kernels} == set(SHARING_CONFIGS)
    compile_source(layout_check(kernels), "layouts")


def test_wrong_count_of_shared_memory_would_be_seen() -> None:
    kernel = Kernel(PAIR, 128, "float16", None, "float16")
    text = layout_check([kernel]).replace(f"kSmemBytes = {kernel.smem_bytes}", "kSmemBytes = 1024")
    with pytest.raises(CompileError, match="static assertion failed"):
        compile_source(text, "layouts")
