"""Which configuration a problem gets: the only file with tuned numbers.

A configuration's time is modelled as

    fixed_us + waves * (wave_us + block_us * blocks of 128 k a contributor) + million_us * million weights

where a wave is as many tiles as the GPU holds CTAs, and reading codes counts where one tile holds all tokens.
The model is there to order configurations. It was fitted, by non-negative least squares of the relative
error (`bench --fit` on what `bench --all-configs --csv` writes), to a sweep over (n, k) = (4096, 4096),
(6144, 4096), (4096, 14336), (8192, 8192), (28672, 4096), (8192, 28672), (57344, 8192) and m = 1, 2, 4, ...
8192: one H100 80GB HBM3 of 132 SMs, 2026-11-22, float16, group 128, symmetric, cold weights, CUDA graphs.
There its choices take 1.005 times as long as the best of the configurations swept (geometric mean of 104
points); at worst 1.076, at 28672x4096 and m = 512, where it takes 192x128 and 128x128 was best. With one
(n, k) left out of the fit, its points take 1.007 to 1.031 times as long.

Swept and dropped, with their best showing against what is here: clusters of 2x1, 1x2 and 2x2 that share
operands (1.02 times as long), 128x128 pingpong (1.05), 64-token pingpong (1.05), 256x96 (1.09), 128x256 with
its two stages (1.13), 256x64 with k split (1.16).
"""

from __future__ import annotations

from functools import lru_cache
from operator import mul
from typing import NamedTuple

from ._config import NAMED_CONFIGS, GemmConfig, GemmProblem
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
    _mma(16, 2, 4, 2, 1): Cost(1.863, 0, 0.6809, 0.1602),
    _mma(16, 2, 2, 4, 1): Cost(2.75, 0, 0.02051, 0.1682),
    _mma(16, 2, 2, 4, 2): Cost(2.766, 0, 0, 0.1661),
    _mma(32, 2, 2, 2, 2): Cost(2.79, 0, 0.3784, 0.1663),
    _mma(32, 2, 2, 3, 1): Cost(3.761, 0, 0, 0.1712),
    _mma(32, 2, 4, 1, 2): Cost(2.763, 0, 0.9749, 0.159),
    _mma(16, 4, 4, 2, 1): Cost(1.924, 0, 0.5764, 0.1695),
    _mma(16, 4, 2, 4, 1): Cost(3.021, 0, 0, 0.1705),
    _mma(16, 4, 2, 4, 2): Cost(2.971, 0, 0, 0.1713),
    _mma(32, 4, 2, 2, 2): Cost(2.97, 0, 0.4111, 0.1661),
    _mma(32, 4, 2, 3, 1): Cost(3.827, 0, 0, 0.1724),
    _mma(32, 4, 4, 1, 2): Cost(2.677, 0, 1.066, 0.1612),
    _mma(16, 8, 4, 2, 1): Cost(1.67, 0, 0.613, 0.1962),
    _mma(16, 8, 2, 4, 1): Cost(2.621, 0, 0, 0.199),
    _mma(16, 8, 2, 4, 2): Cost(2.641, 0, 0, 0.1947),
    _mma(32, 8, 2, 2, 2): Cost(3.03, 0, 0.256, 0.1698),
    _mma(32, 8, 2, 3, 1): Cost(3.618, 0, 0, 0.1694),
    _mma(32, 8, 4, 1, 2): Cost(2.358, 0, 1.308, 0.1637),
    _mma(32, 16, 4, 1, 2): Cost(2.123, 0, 1.944, 0.1932),
    _mma(32, 16, 2, 2, 2): Cost(2.899, 0, 0.4325, 0.215),
    GemmConfig(64, 16, split_k_cluster=2, scale_on="accumulators"): Cost(1.073, 0.1997, 2.105, 0.03837),
    GemmConfig(64, 16, split_k_cluster=2, scale_on="accumulators", ctas_per_sm=2): Cost(
        1.236, 0.1668, 2.093, 0.1017
    ),
    GemmConfig(128, 16, split_k_cluster=2, scale_on="accumulators"): Cost(0.8178, 0.3073, 2.385, 0.02973),
    GemmConfig(128, 16, scale_on="accumulators", ctas_per_sm=2): Cost(0.1763, 0.235, 3.341, 0.1164),
    GemmConfig(256, 16, warpgroups_n=4, scale_on="accumulators"): Cost(2.986, 0.5312, 0, 0.03999),
    GemmConfig(64, 16, split_k_cluster=2): Cost(0.9882, 0.2147, 2.17, 0.03685),
    GemmConfig(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(1.702, 0.1467, 1.645, 0.1231),
    GemmConfig(128, 16, split_k_cluster=2): Cost(0.894, 0.3218, 2.304, 0.02873),
    GemmConfig(128, 16, ctas_per_sm=2): Cost(0.09666, 0.2735, 2.791, 0.1124),
    GemmConfig(256, 16, warpgroups_n=4): Cost(1.415, 0.5848, 1.513, 0.02654),
    GemmConfig(64, 32, split_k_cluster=2, scale_on="accumulators"): Cost(0.7526, 0.2196, 2.165, 0.04635),
    GemmConfig(64, 32, split_k_cluster=2, scale_on="accumulators", ctas_per_sm=2): Cost(
        1.181, 0.1456, 2.178, 0.1361
    ),
    GemmConfig(128, 32, split_k_cluster=2, scale_on="accumulators"): Cost(0.6004, 0.3562, 2.591, 0.02455),
    GemmConfig(128, 32, scale_on="accumulators", ctas_per_sm=2): Cost(0, 0.2686, 3.719, 0.1133),
    GemmConfig(256, 32, warpgroups_n=4, scale_on="accumulators"): Cost(0, 0.6395, 2.817, 0.02004),
    GemmConfig(64, 32, split_k_cluster=2): Cost(0.65, 0.2236, 2.377, 0.05185),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(1.773, 0.1326, 1.635, 0.1522),
    GemmConfig(128, 32, split_k_cluster=2): Cost(0.8434, 0.3482, 2.312, 0.03743),
    GemmConfig(128, 32, ctas_per_sm=2): Cost(0, 0.2832, 2.725, 0.1203),
    GemmConfig(256, 32, warpgroups_n=4): Cost(0, 0.6264, 2.758, 0.02418),
    GemmConfig(64, 64, split_k_warpgroups=2, split_k_cluster=2): Cost(0, 0.657, 2.982, 0),
    GemmConfig(64, 64, split_k_cluster=2): Cost(0, 0.1756, 3.393, 0.1391),
    GemmConfig(128, 64, split_k_cluster=2): Cost(0, 0.5093, 3.311, 0),
    GemmConfig(256, 64, warpgroups_n=4): Cost(0, 0.8266, 2.452, 0.02892),
    GemmConfig(192, 64, split_k_cluster=2): Cost(0, 0.7332, 3.306, 0),
    GemmConfig(64, 128, split_k_cluster=2): Cost(0, 0.4984, 3.857, 0.04824),
    GemmConfig(128, 128, split_k_cluster=2): Cost(0, 0.7872, 3.458, 0),
    GemmConfig(192, 128, split_k_cluster=2): Cost(0, 1.042, 5.094, 0),
    NAMED_CONFIGS["w4a16_sm90_gemm_128"]: Cost(0, 0.784, 1.018, 0),
    NAMED_CONFIGS["w4a16_sm90_gemm_64"]: Cost(0, 0.4999, 0.4717, 0),
    GemmConfig(256, 128): Cost(0, 1.484, 1.204, 0),
    GemmConfig(192, 128): Cost(0, 1.109, 0.963, 0),
    GemmConfig(128, 192): Cost(0, 1.117, 0.9284, 0),
}


@lru_cache(maxsize=4096)
def choose_config(problem: GemmProblem, num_sms: int = 132) -> GemmConfig:
    """The configuration for `problem` on a GPU of `num_sms` multiprocessors; a pure function of the two.

    >>> choose_config(GemmProblem(4096, 4096, 4096)).name
    '256x128x128_1x1_cooperative'
    >>> choose_config(GemmProblem(1, 4096, 4096)).family
    'mma'
    """
    candidates = [config for config in COSTS if serves(config, problem.m) and is_valid(config, problem)]
    if not candidates:  # float32 zeros of small groups leave room for few stages: take what fits
        candidates = [config for config in COSTS if is_valid(config, problem)]
    return min(candidates, key=lambda config: modelled_us(config, problem, num_sms))


def serves(config: GemmConfig, m: int) -> bool:
    """Whether `config` is for this many tokens: small tiles hold all of them, with little to spare."""
    if config.family == "mma":
        return m <= 16 and config.tile_m == next(tile for tile in (2, 4, 8, 16) if tile >= m)
    if config.tile_m <= 32:
        return 4 < m <= config.tile_m and (m > 16 or config.tile_m == 16)
    if config.splits > 1:
        return 32 < m <= config.tile_m * (1 if config.tile_n == config.tile_m == 64 else 2)
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


def modelled_us(config: GemmConfig, problem: GemmProblem, num_sms: int) -> float:
    """The model's time; right within about 10 % where the sweep went, a means of comparison elsewhere."""
    return sum(map(mul, COSTS[config], terms(config, problem, num_sms)))
