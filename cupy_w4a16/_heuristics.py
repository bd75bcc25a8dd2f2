"""Which configuration a problem gets: the only file with tuned numbers.

A configuration's time is modelled as

    fixed_us + hypot(waves * (wave_us + block_us * blocks), million_us * million weights)

where a wave is as many tiles as the GPU holds CTAs, and one that is not full costs 0.7 and 0.3 x its share;
blocks are of 128 k, those of a contributor; and reading codes, which goes on meanwhile, counts where one tile
holds all tokens. The model is there to order configurations. Its numbers were fitted by least squares of the
relative error (`bench --fit` on what `bench --all-configs --csv` writes) to sweeps of one H100 80GB HBM3 of
132 SMs, 2026-11-22, through `Linear`, float16, group 128, symmetric, cold weights, CUDA graphs, rests from 64
tokens on: apart for launches that depend on nothing (an older sweep counts half) and for dependent ones,
where one CTA an SM gains, as the next kernel's CTAs find room beside it. The shapes (n, k): (4096, 4096),
(6144, 4096), (4096, 14336), (8192, 8192), (28672, 4096), (8192, 28672), (57344, 8192) with m = 1, 2, 4, ...
8192 (dependent: 512) and 12, 24, 48, 96, 160, 192, 384 between; (13824, 5120), (5120, 5120), (11008, 4096),
(10240, 8192), (7168, 2048), (5120, 13824) with some of them. There the choices take 1.005 times as long as
the best of the configurations swept (geometric mean of 201 points; dependent: 1.002 of 161); at worst 1.15,
at 13824x5120 and m = 32, where 128x32 with two CTAs an SM is best. Groups of 32, m = 1 ... 8: 1.005 of 78
(dependent, where they have no numbers of their own, 1.027). On ten (n, k) that it was not fitted to, nine m
each, it was 1.004, dependent 1.003; at worst 1.17, at 1024x8192 and m = 1; from m = 128 on 1.002, at worst
1.03. On an H200, whose memory is faster, `tune` found better ones of ten at 8192x8192 only: 1.07 at m = 1
(mma 32x2, two CTAs an SM), 1.04 at m = 16 (64x16, k split, two CTAs an SM).

Swept and dropped, with their best showing against what is here: clusters of 2x1, 1x2 and 2x2 that share
operands (1.02 times as long), 128x128 pingpong (1.02), 64x256 pingpong (1.02), 128x256 (1.01), 192x192
(1.02), 256x96 (1.09), 256x64 with k split (1.16), 224x64 with a shared block (1.02), 224x32 (1.01); mma tiles
of 16x16 (1.02) and 64 columns (1.02).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil, hypot
from typing import NamedTuple

from ._config import FEW_TOKENS, NAMED_CONFIGS, GemmConfig, GemmProblem
from ._normalised import takes_normalised
from ._pack import BLOCK_K
from ._validity import is_valid


class Cost(NamedTuple):
    """The model's numbers for one configuration, in microseconds."""

    fixed_us: float
    wave_us: float
    block_us: float
    million_us: float


class Work(NamedTuple):
    """What they are multiplied by."""

    waves: float
    blocks: float
    million_weights: float


def _mma(tile_n: int, tile_m: int, warpgroups: int, ctas_per_sm: int, stages: int) -> GemmConfig:
    return GemmConfig(
        tile_n,
        tile_m,
        family="mma",
        scale_on="accumulators",
        split_k_warpgroups=warpgroups,
        ctas_per_sm=ctas_per_sm,
        stages=stages,
    )


COSTS: dict[GemmConfig, Cost] = {
    _mma(16, 2, 1, 4, 2): Cost(2.773, 0, 0.04007, 0.1577),
    _mma(16, 2, 2, 4, 1): Cost(1.796, 0.5312, 0.1959, 0.1402),
    _mma(16, 2, 2, 4, 2): Cost(2.288, 0.2134, 0.1445, 0.1519),
    _mma(16, 2, 4, 2, 1): Cost(1.717, 0.5506, 0.3409, 0.03361),
    _mma(16, 4, 2, 4, 2): Cost(2.256, 0.1967, 0.1704, 0.1509),
    _mma(16, 4, 4, 2, 1): Cost(1.559, 0.9622, 0.2486, 0.1154),
    _mma(32, 4, 2, 3, 1): Cost(1.93, 0.9584, 0.2506, 0.1427),
    _mma(16, 8, 2, 4, 1): Cost(2.29, 0, 0.1661, 0.1821),
    _mma(16, 8, 4, 2, 1): Cost(1.534, 1.061, 0.2476, 0.1537),
    _mma(32, 8, 2, 2, 2): Cost(2.571, 0.8095, 0.1746, 0.1474),
    _mma(32, 8, 2, 3, 1): Cost(2.516, 0.2266, 0.2629, 0.142),
    _mma(32, 16, 4, 1, 2): Cost(1.894, 1.687, 0.4281, 0),
    _mma(32, 16, 2, 1, 2): Cost(1.67, 1.218, 0.2416, 0),
    GemmConfig(96, 16, split_k_cluster=2, scale_on="accumulators"): Cost(1.805, 1.371, 0.325, 0),
    GemmConfig(128, 16, split_k_cluster=2, scale_on="accumulators"): Cost(1.198, 2.499, 0.3672, 0),
    # 128x16 with two CTAs an SM: 1.04 x the fit, 5 and 16 % too low for it at 28672x4096 and 18944x3584.
    GemmConfig(128, 16, scale_on="accumulators", ctas_per_sm=2): Cost(0, 4.566, 0.3473, 0.1711),
    GemmConfig(224, 16, warpgroups_n=4, split_k_cluster=2, scale_on="accumulators"): Cost(
        3.976, 0, 0.5568, 0.09439
    ),
    GemmConfig(128, 16, ctas_per_sm=2): Cost(0.2684, 4.083, 0.3507, 0.1709),
    GemmConfig(128, 16, split_k_cluster=2): Cost(1.244, 2.348, 0.3669, 0),
    GemmConfig(64, 32, split_k_cluster=2, scale_on="accumulators", ctas_per_sm=2): Cost(
        0.4433, 3.933, 0.2513, 0.158
    ),
    GemmConfig(96, 32, split_k_cluster=2, scale_on="accumulators"): Cost(0.5455, 2.743, 0.3596, 0),
    GemmConfig(256, 32, warpgroups_n=4, scale_on="accumulators"): Cost(1.514, 0, 0.8075, 0),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(0.4084, 4.033, 0.2178, 0.1603),
    GemmConfig(256, 32, warpgroups_n=4): Cost(0, 3.12, 0.7325, 0.02652),
    GemmConfig(64, 64, split_k_warpgroups=2, split_k_cluster=2): Cost(0.1645, 3.245, 0.5344, 0),
    GemmConfig(128, 64, split_k_cluster=2): Cost(0.2056, 3.7, 0.4739, 0),
    GemmConfig(192, 64, split_k_cluster=2): Cost(0, 4.695, 0.6651, 0),
    GemmConfig(256, 64, warpgroups_n=4): Cost(0.625, 0.8431, 0.8762, 0.0898),
    GemmConfig(64, 128, split_k_cluster=2): Cost(0, 3.104, 0.3955, 0),
    GemmConfig(128, 128, split_k_cluster=2): Cost(0, 4.107, 0.6873, 0.07448),
    GemmConfig(192, 128, split_k_cluster=2): Cost(0, 4.887, 1.023, 0.09329),
    GemmConfig(224, 128, split_k_cluster=2): Cost(0, 2.624, 1.271, 0.1146),
    NAMED_CONFIGS["w4a16_sm90_gemm_64"]: Cost(1.026, 0.7074, 0.3975, 0),
    GemmConfig(128, 192): Cost(0, 1.338, 1.093, 0),
    NAMED_CONFIGS["w4a16_sm90_gemm_128"]: Cost(0.01042, 1.667, 0.7201, 0.06359),
    GemmConfig(192, 128): Cost(0, 1.722, 1.082, 0.1544),
    GemmConfig(256, 128): Cost(0, 2.028, 1.438, 0.0762),
}

DEPENDENT_COSTS: dict[GemmConfig, Cost] = {
    _mma(16, 2, 2, 4, 2): Cost(1.425, 0, 0.2769, 0.09169),
    _mma(16, 2, 4, 2, 1): Cost(0.76, 0.6035, 0.2957, 0.08725),
    _mma(32, 2, 2, 2, 2): Cost(0.6946, 0.5061, 0.2606, 0.107),
    _mma(16, 4, 2, 4, 2): Cost(1.534, 0, 0.2757, 0.1058),
    _mma(16, 4, 4, 2, 1): Cost(0.7723, 0.8161, 0.2591, 0.1163),
    _mma(32, 4, 2, 3, 1): Cost(1.032, 0.06324, 0.4488, 0.07085),
    _mma(32, 4, 2, 2, 2): Cost(0.6775, 0.596, 0.2645, 0.1059),
    _mma(16, 8, 4, 2, 1): Cost(0.6962, 0.9741, 0.2517, 0.1592),
    _mma(32, 8, 2, 3, 1): Cost(1.815, 0, 0.4007, 0.1036),
    _mma(32, 8, 4, 1, 1): Cost(0.6356, 1.155, 0.3766, 0),
    _mma(32, 8, 2, 2, 2): Cost(0.8984, 0.1979, 0.3048, 0.09012),
    _mma(32, 16, 2, 1, 2): Cost(0.2943, 1.137, 0.2425, 0),
    _mma(32, 16, 4, 1, 2): Cost(0.7836, 1.539, 0.4027, 0.06763),
    GemmConfig(64, 16, split_k_cluster=2, scale_on="accumulators", ctas_per_sm=2): Cost(
        0.3147, 1.633, 0.3437, 0.05291
    ),
    GemmConfig(96, 16, split_k_cluster=2, scale_on="accumulators"): Cost(0.4059, 1.417, 0.3243, 0),
    GemmConfig(128, 16, scale_on="accumulators", ctas_per_sm=2): Cost(0, 0, 0.7033, 0),
    GemmConfig(224, 16, warpgroups_n=4, split_k_cluster=2, scale_on="accumulators"): Cost(
        1.48, 0, 0.579, 0.07855
    ),
    GemmConfig(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(0.363, 1.516, 0.363, 0),
    GemmConfig(128, 16, ctas_per_sm=2): Cost(0, 0, 0.5419, 0.1179),
    GemmConfig(64, 32, split_k_cluster=2, scale_on="accumulators", ctas_per_sm=2): Cost(
        0.3771, 1.733, 0.404, 0.04475
    ),
    GemmConfig(64, 32, split_k_cluster=2, scale_on="accumulators"): Cost(0, 2.229, 0.2557, 0),
    GemmConfig(96, 32, split_k_cluster=2, scale_on="accumulators"): Cost(0, 1.926, 0.362, 0),
    GemmConfig(128, 32, scale_on="accumulators", ctas_per_sm=2): Cost(0, 0, 0.7977, 0),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(0.2485, 1.782, 0.3706, 0.06036),
    GemmConfig(64, 32, split_k_cluster=2): Cost(0, 2.274, 0.2387, 0),
    GemmConfig(128, 32, ctas_per_sm=2): Cost(0, 0, 0.7595, 0),
    GemmConfig(64, 64, split_k_warpgroups=2, split_k_cluster=2): Cost(0, 2.421, 0.5479, 0),
    GemmConfig(128, 64, split_k_cluster=2): Cost(0, 2.674, 0.4616, 0.04881),
    GemmConfig(192, 64, split_k_cluster=2): Cost(0, 3.023, 0.668, 0),
    GemmConfig(256, 64, warpgroups_n=4): Cost(1.488, 0.6375, 0.8198, 0.08783),
    GemmConfig(64, 128, split_k_cluster=2): Cost(0, 2.388, 0.3937, 0),
    GemmConfig(128, 128, split_k_cluster=2): Cost(0, 2.983, 0.6898, 0.06491),
    GemmConfig(160, 128, split_k_cluster=2): Cost(0.03464, 2.856, 0.9063, 0.09369),
    GemmConfig(192, 128, split_k_cluster=2): Cost(0, 3.743, 1.013, 0.0742),
    GemmConfig(224, 128, split_k_cluster=2): Cost(0.2562, 2.993, 1.189, 0.08112),
    NAMED_CONFIGS["w4a16_sm90_gemm_64"]: Cost(0.9804, 0.4371, 0.3831, 0.02531),
    NAMED_CONFIGS["w4a16_sm90_gemm_128"]: Cost(0.9436, 0.9881, 0.686, 0.06418),
    GemmConfig(128, 192): Cost(1.559, 0.7764, 1.016, 0),
    GemmConfig(192, 128): Cost(1.201, 1.843, 1.003, 0.1237),
    GemmConfig(256, 128): Cost(2.367, 1.336, 1.333, 0.05275),
}


# Scales are a quarter as long as codes there, and warps that hold more of them at once gain.
GROUP_32_COSTS: dict[GemmConfig, Cost] = {
    **{config: cost for config, cost in COSTS.items() if config.family == "wgmma" or config.tile_m > 8},
    _mma(16, 2, 1, 3, 1): Cost(2.529, 0, 0.06155, 0.1616),
    _mma(16, 2, 2, 4, 1): Cost(1.179, 1.497, 0.2125, 0.1461),
    _mma(16, 2, 4, 2, 1): Cost(1.38, 1.115, 0.2756, 0.1238),
    _mma(32, 2, 2, 2, 2): Cost(1.992, 1.598, 0.1922, 0.1482),
    _mma(32, 2, 4, 1, 1): Cost(2.378, 0.7917, 0.3848, 0),
    _mma(16, 4, 1, 3, 1): Cost(2.574, 0, 0.06532, 0.1618),
    _mma(16, 4, 2, 4, 1): Cost(1.52, 1.058, 0.2112, 0.153),
    _mma(16, 4, 4, 2, 1): Cost(1.442, 1.153, 0.2433, 0.1424),
    _mma(32, 4, 2, 3, 1): Cost(1.858, 1.565, 0.2521, 0.1581),
    _mma(32, 4, 2, 2, 2): Cost(1.856, 1.762, 0.1957, 0.1493),
    _mma(32, 4, 4, 1, 1): Cost(2.323, 0.8556, 0.3902, 0),
    _mma(16, 8, 1, 3, 1): Cost(2.579, 0, 0.06253, 0.182),
    _mma(16, 8, 2, 4, 1): Cost(2.244, 0, 0.1426, 0.2039),
    _mma(16, 8, 4, 2, 1): Cost(1.426, 1.195, 0.2414, 0.1779),
    _mma(32, 8, 2, 3, 1): Cost(2.294, 0.776, 0.2536, 0.1619),
    _mma(32, 8, 2, 2, 2): Cost(1.985, 1.861, 0.1824, 0.1585),
    _mma(32, 8, 4, 1, 1): Cost(1.872, 1.339, 0.4128, 0),
}

WAVE_START = 0.7  # of a wave's time, however few of its tiles there are

# On a hot card, k split with many tokens read up to 20 % slower than in the sweeps (8192x28672, m = 256:
# 199 us and 166; 8192x8192, m = 128: 29.4 and 26.2), other configurations hardly so.
SPLIT_MARGIN = 1.02


@lru_cache(maxsize=4096)
def choose_config(problem: GemmProblem, num_sms: int = 132, pdl: bool = False) -> GemmConfig:
    """The configuration for `problem` on a GPU of `num_sms` multiprocessors, a pure function.

    `pdl` says whether the launch is dependent, which another configuration may suit better.

    >>> choose_config(GemmProblem(4096, 4096, 4096)).name
    '256x128x128_1x1_cooperative'
    >>> choose_config(GemmProblem(1, 4096, 4096)).family
    'mma'
    """
    tables = [DEPENDENT_COSTS if pdl else COSTS, GROUP_32_COSTS]
    if problem.group_size == 32 and not pdl:
        tables.reverse()
    for costs in tables:  # wide zeros of small groups fit few tiles' registers: the other table has some
        candidates = [c for c in costs if serves(c, problem, num_sms) and is_valid(c, problem)]
        if candidates:
            break
    candidates = [c for c in candidates if not _outdone(c, candidates, problem)]
    return best(candidates, costs, problem, num_sms)


def best(
    candidates: Iterable[GemmConfig], costs: Mapping[GemmConfig, Cost], problem: GemmProblem, num_sms: int
) -> GemmConfig:
    """The candidate of the least modelled time, where a split of k must win by a margin."""

    def rated_us(config: GemmConfig) -> float:
        margin = SPLIT_MARGIN if config.splits > 1 and config.tile_m > FEW_TOKENS else 1.0
        return margin * modelled_us(config, problem, num_sms, costs)

    return min(candidates, key=rated_us)


def _outdone(config: GemmConfig, candidates: Sequence[GemmConfig], problem: GemmProblem) -> bool:
    """Whether scaling sums beats this scaling of weights, whose cost is that of the shorter dequantisation.

    With zeros or bfloat16 there is no such; there scaled sums took 0.96 to 1.02 times as long.
    """
    if takes_normalised(config, problem) or config.scale_on == "accumulators":
        return False
    return replace(config, scale_on="accumulators") in candidates


def serves(config: GemmConfig, problem: GemmProblem, num_sms: int) -> bool:
    """Whether `config` is for so many tokens: small tiles hold all of them, with little to spare.

    CTAs of four warps hide too little latency where the GPU is not full of them: 1.2 to 1.8 times as long.
    """
    m = problem.m
    if config.family == "mma":
        full = config.split_k_warpgroups > 1 or _waves(config, problem, num_sms) >= 1
        return full and m <= 16 and config.tile_m == next(tile for tile in (2, 4, 8, 16) if tile >= m)
    if config.tile_m <= 32:
        return 4 < m <= config.tile_m and (m > 16 or config.tile_m == 16)
    if config.shares_block:
        return m > 64
    if config.splits > 1:
        return 32 < m <= config.tile_m * (1 if config.tile_m == 64 else 2)
    return m > 32


def work(config: GemmConfig, problem: GemmProblem, num_sms: int) -> Work:
    """How often `problem` makes a configuration do what it costs."""
    tiles_m = -(-problem.m // config.tile_m)
    waves = _waves(config, problem, num_sms)
    waves = WAVE_START * ceil(waves) + (1 - WAVE_START) * waves
    blocks = -(-problem.k // BLOCK_K) / (1 if config.shares_block else config.splits)
    million_weights = problem.n * problem.k * 1e-6
    if config.family == "mma":
        return Work(waves, blocks, million_weights * tiles_m)
    return Work(waves, blocks, million_weights if tiles_m == 1 else 0.0)


def _waves(config: GemmConfig, problem: GemmProblem, num_sms: int) -> float:
    """How many times the CTAs of `problem` fill the GPU."""
    return config.clusters(problem) * config.cluster_size / (num_sms * config.ctas_per_sm)


def modelled_us(
    config: GemmConfig, problem: GemmProblem, num_sms: int, costs: Mapping[GemmConfig, Cost] = COSTS
) -> float:
    """The model's time; right within about 10 % where the sweeps went, a means of comparison elsewhere."""
    return time_us(costs[config], work(config, problem, num_sms))


def time_us(cost: Cost, done: Work) -> float:
    """The model.

    >>> time_us(Cost(1.0, 1.0, 0.5, 0.1), Work(1.0, 4.0, 40.0))
    6.0
    """
    return cost.fixed_us + hypot(
        done.waves * (cost.wave_us + cost.block_us * done.blocks), cost.million_us * done.million_weights
    )
