"""Shared memory of a configuration: what a CTA takes, what it may take, and how many stages fit.

`kernels_src/storage.cuh` and `decode.cuh` lay it out; the compiler checks that both count alike.
"""

from __future__ import annotations

from functools import cache

from ._config import GemmConfig, GemmProblem
from ._dtypes import ITEM_BYTES
from ._pack import BLOCK_BYTES, BLOCK_K, BLOCK_N

SMEM_BYTES_MAX = 232_448  # a Hopper block's limit: 227 KiB
SMEM_BYTES_SM = 233_472  # an SM's 228 KiB
SMEM_BYTES_RESERVED = 1024  # what every block takes beside its own
STAGES_MIN, STAGES_MAX = 2, 8


def _align(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def smem_bytes(config: GemmConfig, problem: GemmProblem, stages: int) -> int:
    """Bytes of `SharedStorage` in kernels_src/storage.cuh; the compiler checks that both count alike."""
    if config.family == "mma":
        return _mma_smem_bytes(config)
    groups = stage_groups(problem)
    slabs = BLOCK_N * ITEM_BYTES[problem.out_dtype] // 128
    zero_bytes = 16
    if problem.zeros:
        zero_bytes = stages * _align(groups * config.stage_n * ITEM_BYTES[problem.zeros], 128)
    consumers, staged = config.consumer_warpgroups, config.store_tokens > 0
    result_bytes = (
        consumers * config.store_buffers * slabs * config.store_tokens * 128 if staged else slabs * 16
    )
    receivers, split_blocks = (1, 1) if config.shares_block else (consumers, config.warpgroup_blocks)
    share_bytes = split_blocks * config.tile_m // config.splits * BLOCK_N * 4
    partial_bytes = receivers * ((config.splits - 1) * share_bytes if config.splits > 1 else 16)
    size = stages * config.tile_m * BLOCK_K * 2
    size = _align(size + result_bytes, 128)
    size = _align(size + partial_bytes, 128)
    size += stages * config.stage_n // BLOCK_N * BLOCK_BYTES
    size = _align(size + stages * groups * config.stage_n * 2, 128)
    size = _align(size + zero_bytes, 8) + 8 * (2 * stages + receivers)
    return _align(size, 1024)


def _mma_smem_bytes(config: GemmConfig) -> int:
    """Bytes of `DecodeStorage` in kernels_src/decode.cuh."""
    warps = config.threads // 32
    activations = warps * (config.stages or 1) * config.tile_m * BLOCK_K * 2
    sums = warps * config.tile_n // 16 * max(config.tile_m, 8) * 20 * 4
    return _align(activations, 128) + _align(sums, 128)


def smem_limit(config: GemmConfig) -> int:
    """Bytes of shared memory that one CTA may take."""
    return min(SMEM_BYTES_MAX, SMEM_BYTES_SM // config.ctas_per_sm - SMEM_BYTES_RESERVED)


def stage_groups(problem: GemmProblem) -> int:
    """Groups of scales in one stage of 128 k."""
    return BLOCK_K // problem.group_size if 0 < problem.group_size < BLOCK_K else 1


@cache
def resolved_stages(config: GemmConfig, problem: GemmProblem) -> int:
    """`config.stages`, or as many as shared memory holds."""
    if config.stages is not None:
        return config.stages
    stages = STAGES_MAX
    while stages > STAGES_MIN and smem_bytes(config, problem, stages) > smem_limit(config):
        stages -= 1
    # A warpgroup that takes every second stage must meet the same ones in every round: full barriers tell
    # rounds apart by parity alone.
    return stages // config.split_k_warpgroups * config.split_k_warpgroups
