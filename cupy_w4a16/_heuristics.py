"""Which configuration a problem gets: the only file with tuned numbers.

A configuration's time is modelled as

    fixed_us + waves * (wave_us + block_us * blocks of 128 k a contributor) + million_us * million weights

where a wave is as many tiles as the GPU holds CTAs, and reading codes counts where one tile holds all tokens.
The model is there to order configurations. It was fitted, by non-negative least squares of the relative
error (`bench --fit` on what `bench --all-configs --csv` writes), to sweeps over (n, k) = (4096, 4096),
(6144, 4096), (4096, 14336), (8192, 8192), (28672, 4096), (8192, 28672), (57344, 8192) and m = 1, 2, 4, ...
8192, with 12, 24, 48, 96, 160, 192 and 384 between: one H100 80GB HBM3 of 132 SMs, 2026-11-22, through
`Linear`, float16, group 128, symmetric, cold weights, CUDA graphs. There its choices take 1.004 times as long
as the best of the configurations swept (geometric mean of 147 points); at worst 1.042, at 4096x14336 and
m = 8, where it takes the mma tile 32x8 with four warps of eight and with all was best. On ten (n, k) that it
was not fitted to, eight m each, it was 1.010; at worst 1.17, at 13824x5120 and m = 16.

Swept and dropped, with their best showing against what is here: clusters of 2x1, 1x2 and 2x2 that share
operands (1.02 times as long), 128x128 pingpong (1.02), 64x256 pingpong (1.02), 128x256 (1.01), 192x192
(1.02), 256x96 (1.09), 256x64 with k split (1.16); mma tiles of 16x16 (1.02) and 64 columns (1.02).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import mul
from typing import NamedTuple

from ._config import FEW_TOKENS, NAMED_CONFIGS, GemmConfig, GemmProblem
from ._normalised import takes_normalised
from ._pack import BLOCK_K
from ._validity import is_valid


class Cost(NamedTuple):
    """The model's numbers for one configuration, in microseconds."""

    fixed_us: float
    block_us: float
    wave_us: float
    million_us: float


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
    _mma(16, 2, 4, 2, 1): Cost(1.716, 0, 0.6279, 0.1638),
    _mma(16, 2, 2, 4, 1): Cost(2.476, 0, 0.2167, 0.1662),
    _mma(16, 2, 2, 4, 2): Cost(2.591, 0, 0, 0.1669),
    _mma(32, 2, 2, 2, 2): Cost(2.67, 0, 0.4892, 0.1651),
    _mma(32, 2, 4, 1, 1): Cost(2.376, 0, 0.7739, 0.1653),
    _mma(16, 4, 4, 2, 1): Cost(1.53, 0, 0.7431, 0.1658),
    _mma(16, 4, 2, 4, 1): Cost(2.493, 0, 0.04556, 0.1715),
    _mma(16, 4, 2, 4, 2): Cost(2.49, 0, 0.07746, 0.1696),
    _mma(32, 4, 2, 2, 2): Cost(2.599, 0, 0.4568, 0.1656),
    _mma(32, 4, 2, 3, 1): Cost(3.4, 0, 0, 0.1682),
    _mma(16, 8, 4, 2, 1): Cost(1.55, 0, 0.7174, 0.1942),
    _mma(16, 8, 2, 4, 1): Cost(2.391, 0, 0.06659, 0.1986),
    _mma(32, 8, 2, 2, 2): Cost(2.937, 0, 0.3506, 0.1671),
    _mma(32, 8, 2, 3, 1): Cost(3.696, 0, 0, 0.1675),
    _mma(32, 16, 4, 1, 2): Cost(1.775, 0, 1.963, 0.1951),
    _mma(32, 16, 2, 1, 2): Cost(1.604, 0, 1.523, 0.2198),
    _mma(32, 16, 2, 2, 2): Cost(2.903, 0, 0.5489, 0.2046),
    GemmConfig(64, 16, split_k_cluster=2, scale_on="accumulators"): Cost(1.059, 0.1679, 2.088, 0.0669),
    GemmConfig(64, 16, split_k_cluster=2, scale_on="accumulators", ctas_per_sm=2): Cost(
        1.674, 0.08352, 1.962, 0.1341
    ),
    GemmConfig(128, 16, split_k_cluster=2, scale_on="accumulators"): Cost(0.9531, 0.2506, 2.314, 0.05528),
    GemmConfig(128, 16, scale_on="accumulators", ctas_per_sm=2): Cost(3.445, 0.1853, 0.5825, 0.1354),
    GemmConfig(256, 16, warpgroups_n=4, scale_on="accumulators"): Cost(4.261, 0.4543, 0, 0.05609),
    GemmConfig(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(1.759, 0.07494, 1.925, 0.137),
    GemmConfig(128, 16, split_k_cluster=2): Cost(1.053, 0.2537, 2.214, 0.05245),
    GemmConfig(128, 16, ctas_per_sm=2): Cost(3.002, 0.1756, 1.016, 0.1364),
    GemmConfig(256, 16, warpgroups_n=4): Cost(4.319, 0.4418, 0, 0.05794),
    GemmConfig(64, 32, split_k_cluster=2, scale_on="accumulators"): Cost(0.7326, 0.1515, 2.498, 0.09163),
    GemmConfig(64, 32, split_k_cluster=2, scale_on="accumulators", ctas_per_sm=2): Cost(
        1.38, 0.1009, 2.196, 0.1449
    ),
    GemmConfig(128, 32, split_k_cluster=2, scale_on="accumulators"): Cost(0.2713, 0.3385, 2.99, 0.02656),
    GemmConfig(128, 32, scale_on="accumulators", ctas_per_sm=2): Cost(0, 0.235, 3.365, 0.1259),
    GemmConfig(256, 32, warpgroups_n=4, scale_on="accumulators"): Cost(2.37, 0.5652, 0.5539, 0.04183),
    GemmConfig(64, 32, split_k_cluster=2): Cost(0.7454, 0.155, 2.463, 0.08813),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(1.423, 0.07976, 2.258, 0.1468),
    GemmConfig(128, 32, split_k_cluster=2): Cost(0.5652, 0.2838, 2.808, 0.04233),
    GemmConfig(128, 32, ctas_per_sm=2): Cost(0, 0.2236, 3.388, 0.1243),
    GemmConfig(256, 32, warpgroups_n=4): Cost(3.212, 0.5065, 0, 0.05255),
    GemmConfig(64, 64, split_k_warpgroups=2, split_k_cluster=2): Cost(0, 0.1656, 3.499, 0.1695),
    GemmConfig(128, 64, split_k_cluster=2): Cost(0, 0.3769, 3.52, 0.05319),
    GemmConfig(256, 64, warpgroups_n=4): Cost(0, 0.9021, 0.3265, 0.006821),
    GemmConfig(192, 64, split_k_cluster=2): Cost(0, 0.397, 4.592, 0.09469),
    GemmConfig(64, 128, split_k_cluster=2): Cost(0, 0.3962, 3.129, 0),
    GemmConfig(128, 128, split_k_cluster=2): Cost(0, 0.6953, 3.556, 0.002839),
    GemmConfig(192, 128, split_k_cluster=2): Cost(0, 0.9514, 5.427, 0.01271),
    NAMED_CONFIGS["w4a16_sm90_gemm_128"]: Cost(0, 0.7372, 1.015, 0),
    NAMED_CONFIGS["w4a16_sm90_gemm_64"]: Cost(0, 0.4082, 0.6959, 0),
    GemmConfig(256, 128): Cost(0, 1.533, 0.04894, 0),
    GemmConfig(192, 128): Cost(0, 1.135, 0.3547, 0),
    GemmConfig(128, 192): Cost(0, 1.14, 0.2528, 0),
}


# On a hot card, k split with many tokens read up to 20 % slower than in the sweeps (8192x28672, m = 256:
# 199 us and 166; 8192x8192, m = 128: 29.4 and 26.2), other configurations hardly so.
SPLIT_MARGIN = 1.04


@lru_cache(maxsize=4096)
def choose_config(problem: GemmProblem, num_sms: int = 132) -> GemmConfig:
    """The configuration for `problem` on a GPU of `num_sms` multiprocessors; a pure function of the two.

    >>> choose_config(GemmProblem(4096, 4096, 4096)).name
    '256x128x128_1x1_cooperative'
    >>> choose_config(GemmProblem(1, 4096, 4096)).family
    'mma'
    """
    candidates = [config for config in COSTS if serves(config, problem.m) and is_valid(config, problem)]
    candidates = [config for config in candidates if not _outdone(config, candidates, problem)]
    if not candidates:  # float32 zeros of small groups leave room for few stages: take what fits
        candidates = [config for config in COSTS if is_valid(config, problem)]
    return best(candidates, COSTS, problem, num_sms)


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


def serves(config: GemmConfig, m: int) -> bool:
    """Whether `config` is for this many tokens: small tiles hold all of them, with little to spare."""
    if config.family == "mma":
        return m <= 16 and config.tile_m == next(tile for tile in (2, 4, 8, 16) if tile >= m)
    if config.tile_m <= 32:
        return 4 < m <= config.tile_m and (m > 16 or config.tile_m == 16)
    if config.splits > 1:
        return 32 < m <= config.tile_m * (1 if config.tile_m == 64 else 2)
    return m > 32


def terms(config: GemmConfig, problem: GemmProblem, num_sms: int) -> Cost:
    """What each number of a `Cost` is multiplied by."""
    tiles_n, tiles_m = -(-problem.n // config.tile_n), -(-problem.m // config.tile_m)
    waves = -(-tiles_n * tiles_m * config.split_k_cluster // (num_sms * config.ctas_per_sm))
    million_weights = problem.n * problem.k * 1e-6
    if config.family == "mma":
        return Cost(1.0, 0.0, waves, million_weights * tiles_m)
    blocks = -(-problem.k // BLOCK_K) / config.splits
    return Cost(1.0, waves * blocks, waves, million_weights if tiles_m == 1 else 0.0)


def modelled_us(
    config: GemmConfig, problem: GemmProblem, num_sms: int, costs: Mapping[GemmConfig, Cost] = COSTS
) -> float:
    """The model's time; right within about 10 % where the sweep went, a means of comparison elsewhere."""
    return sum(map(mul, costs[config], terms(config, problem, num_sms)))
