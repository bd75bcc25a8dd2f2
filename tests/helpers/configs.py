"""Kernels that tests go through: configurations, and what else changes the machine code."""

from __future__ import annotations

from functools import cache

from cupy_w4a16 import GemmConfig
from cupy_w4a16._activations import ACTIVATIONS
from cupy_w4a16._config_table import EXTRA_CONFIGS, LAUNCHER_CONFIGS

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


# One or more of every other way to cut the work.
_OTHERS = [
    GemmConfig(64, 8),
    GemmConfig(64, 8, split_k_warpgroups=2),
    GemmConfig(64, 16, split_k_cluster=2),
    GemmConfig(64, 16, split_k_warpgroups=2, split_k_cluster=2),
    GemmConfig(64, 16, scale_on="accumulators", ctas_per_sm=2),
    GemmConfig(64, 32, split_k_warpgroups=2, scale_on="accumulators"),
    GemmConfig(64, 64, split_k_warpgroups=2, ctas_per_sm=1),
    GemmConfig(64, 96, schedule="pingpong"),
    GemmConfig(64, 128, schedule="pingpong", stages=2),
    GemmConfig(64, 192, schedule="pingpong"),
    GemmConfig(128, 8, ctas_per_sm=2),
    GemmConfig(128, 16, split_k_cluster=2),
    GemmConfig(128, 16, scale_on="accumulators"),
    GemmConfig(128, 32, split_k_warpgroups=2),
    GemmConfig(128, 64, schedule="pingpong"),
    GemmConfig(128, 96),
    GemmConfig(128, 192),
    GemmConfig(256, 16),
    GemmConfig(256, 64),
    GemmConfig(256, 128),
    GemmConfig(256, 128, cluster_n=2),
    *(
        GemmConfig(
            n, m, split_k_warpgroups=k, stages=stages, ctas_per_sm=ctas, scale_on="accumulators", family="mma"
        )
        for n, m, k, stages, ctas in (
            (16, 2, 1, 4, 1),
            (16, 8, 4, 1, 2),
            (32, 4, 2, 2, 2),
            (64, 8, 2, 1, 1),
            (16, 8, 2, 2, 4),
        )
    ),
]

TABLE = (*LAUNCHER_CONFIGS, *EXTRA_CONFIGS)
CONFIGS = tuple(dict.fromkeys((*TABLE, *_OTHERS)))


@cache
def paired_kernels() -> tuple[Case, ...]:
    """Cases, without sizes, whose kernels cover every configuration and pairs of what is in their text."""
    options = ("group_size", "dtype", "zeros", "float32_out")
    fields = ("family", "tile_m", "schedule", "splits", "cluster_size", "scale_on", "ctas_per_sm")
    goals = [("config",), *pairs_of(KERNEL_OPTIONS), ("activation", "family"), ("dtype", "tile_m")]
    goals += [(field, option) for field in fields if field != "tile_m" for option in options]

    def traits(row: Row) -> Row:
        return {field: getattr(row["config"], field) for field in fields}

    def is_valid(row: Row) -> bool:
        return bool(valid([Case(1, 1, 1, **row)]))

    rows = covering({"config": CONFIGS} | KERNEL_OPTIONS, goals, is_valid, traits)
    return tuple(Case(1, 1, 1, **row) for row in rows)
