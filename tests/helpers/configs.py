"""Kernels that tests go through: configurations, and what else changes the machine code."""

from __future__ import annotations

from functools import cache

from cupy_w4a16 import GemmConfig, GemmProblem
from cupy_w4a16._activations import ACTIVATIONS
from cupy_w4a16._config_table import EXTRA_CONFIGS, LAUNCHER_CONFIGS
from cupy_w4a16._kernels import Kernel
from cupy_w4a16._normalised import takes_normalised
from cupy_w4a16._validity import invalid_reason

from .cases import Case, valid
from .covering import Row, covering, pairs_of

# What changes the machine code of a kernel besides its configuration. int8 zeros run uint8's kernels.
KERNEL_OPTIONS = {
    "group_size": (128, 64, 32),
    "dtype": ("float16", "bfloat16"),
    "zeros": (None, "uint8", "int32", "float", "float32"),
    "float32_out": (False, True),
    "activation": (None, *ACTIVATIONS),
}


# Ways to cut the work that the table may lack.
_OTHERS = [
    GemmConfig(64, 8),
    GemmConfig(64, 8, split_k_warpgroups=2),
    GemmConfig(64, 16, split_k_warpgroups=2, split_k_cluster=2),
    GemmConfig(64, 32, split_k_warpgroups=2, scale_on="accumulators"),
    GemmConfig(64, 96, schedule="pingpong"),
    GemmConfig(64, 128, schedule="pingpong", stages=2),
    GemmConfig(128, 64, schedule="pingpong"),
    GemmConfig(256, 128, cluster_n=2),
    GemmConfig(96, 192, split_k_cluster=2),  # the shared block's tokens take several staged stores
    GemmConfig(160, 8, split_k_cluster=2),  # and here a unit a thread
    GemmConfig(160, 32, split_k_cluster=2, warpgroups_n=1, scale_on="accumulators"),
    GemmConfig(16, 2, family="mma", scale_on="accumulators", stages=4),
]

TABLE = (*LAUNCHER_CONFIGS, *EXTRA_CONFIGS)
CONFIGS = tuple(dict.fromkeys((*TABLE, *_OTHERS)))


NORMALISED_CONFIGS = tuple(config for config in CONFIGS if takes_normalised(config, GemmProblem(1, 1, 1)))
SHARING_CONFIGS = tuple(config for config in CONFIGS if config.shares_block)


@cache
def normalised_kernels() -> tuple[Kernel, ...]:
    """Kernels for normalised scales: every configuration, and pairs of what else is in their text."""
    options = {
        "normalised": (True,),
        "group_size": KERNEL_OPTIONS["group_size"],
        "out_dtype": ("float16", "float32"),
        "activation": KERNEL_OPTIONS["activation"],
    }

    def made(row: Row) -> Kernel:
        return Kernel(dtype="float16", zeros=None, **row)

    def is_valid(row: Row) -> bool:
        return invalid_reason(row["config"], made(row).problem) is None

    goals = [*pairs_of(options), ("config",)]
    return tuple(map(made, covering({"config": NORMALISED_CONFIGS} | options, goals, is_valid, lambda _: {})))


@cache
def paired_kernels(every_config: bool = False) -> tuple[Case, ...]:
    """Cases, without sizes, whose kernels cover pairs of what is in their text, and every configuration."""
    options = ("group_size", "dtype", "zeros", "float32_out")
    fields = (
        "family", "tile_m", "schedule", "splits", "cluster_size", "shares_block", "scale_on", "ctas_per_sm"
    )  # fmt: skip
    goals = [*pairs_of(KERNEL_OPTIONS), ("activation", "family"), ("dtype", "tile_m")]
    goals += [(field, option) for field in fields if field != "tile_m" for option in options]
    if every_config:
        goals.append(("config",))

    def traits(row: Row) -> Row:
        return {field: getattr(row["config"], field) for field in fields}

    def is_valid(row: Row) -> bool:
        return bool(valid([Case(1, 1, 1, **row)]))

    rows = covering({"config": CONFIGS} | KERNEL_OPTIONS, goals, is_valid, traits)
    return tuple(Case(1, 1, 1, **row) for row in rows)
