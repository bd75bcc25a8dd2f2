"""Which configuration a problem gets: the one whose modelled time is the least. The numbers are in `_costs`.

A configuration's time is modelled as

    fixed_us + hypot(waves * (wave_us + block_us * blocks), million_us * weights, fullest_us * fullest)

A wave is as many tiles as the GPU holds CTAs, and one that is not full costs 0.7 and 0.3 x its share;
blocks are of 128 k, those of a contributor: the first term is a CTA's own pace. The second is reading codes
from memory, in millions of weights, which counts where one tile holds all tokens; the third what an SM can
take in, in millions of weights of the SM that has most of them: with 1.1 tiles an SM some have two, and the
others wait for them. The model is there to order configurations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from math import ceil, hypot
from typing import NamedTuple

from ._config import FEW_TOKENS, GemmConfig, GemmProblem
from ._costs import MEASURED, SPLIT_MARGIN, WAVE_START, Cost, Table
from ._normalised import is_symmetric_float16
from ._pack import BLOCK_K
from ._validity import is_valid


class Work(NamedTuple):
    """What a configuration's costs are multiplied by."""

    waves: float
    blocks: float
    million_weights: float
    fullest_million: float


@lru_cache(maxsize=4096)
def fastest_config(problem: GemmProblem, num_sms: int, pdl: bool) -> GemmConfig:
    """The configuration of the least modelled time, a pure function; arguments have been checked."""
    for costs in tables(problem, pdl):  # wide zeros of small groups fit few tiles: another table has some
        candidates = [config for config in costs if serves(config, problem) and is_valid(config, problem)]
        if candidates:
            break
    return best(candidates, costs, problem, num_sms)


def tables(problem: GemmProblem, pdl: bool) -> Iterator[Mapping[GemmConfig, Cost]]:
    """Costs by configuration for launches of that kind: first those for such a problem, then others.

    Zeros and several groups a stage cost an mma tile registers, and a wgmma tile the shorter dequantization
    of normalised scales, or scaled sums. From 9 tokens on, where either family may win (an SM holds one CTA
    of an mma tile anyway), both have costs of the same sweep.
    """
    symmetric, with_zeros, groups_of_32, many = MEASURED[pdl]
    if problem.group_size == 32:
        wgmma = groups_of_32
    else:
        wgmma = symmetric if is_symmetric_float16(problem) else with_zeros
    if problem.m > 8:
        mma = wgmma
    elif problem.group_size in (32, 64):
        mma = groups_of_32
    else:
        mma = symmetric if problem.zeros is None else with_zeros
    yield _of_family(mma, "mma") | _of_family(wgmma, "wgmma") | many
    yield from (symmetric, with_zeros, groups_of_32)


def _of_family(costs: Table, family: str) -> Table:
    return {config: cost for config, cost in costs.items() if config.family == family}


def best(
    candidates: Iterable[GemmConfig], costs: Mapping[GemmConfig, Cost], problem: GemmProblem, num_sms: int
) -> GemmConfig:
    """The candidate of the least modelled time."""
    return min(candidates, key=lambda config: rated_us(config, costs[config], problem, num_sms))


def rated_us(config: GemmConfig, cost: Cost, problem: GemmProblem, num_sms: int) -> float:
    """The model's time, where a split of k with many tokens must win by a margin."""
    margin = SPLIT_MARGIN if config.splits > 1 and config.tile_m > FEW_TOKENS else 1.0
    return margin * modelled_us(config, cost, problem, num_sms)


def serves(config: GemmConfig, problem: GemmProblem) -> bool:
    """Whether `config` is for so many tokens: small tiles hold all of them, with little to spare.

    Rules of thumb, for the fit of `_costs` as for the choice. Both families serve 5 to 16 tokens, where
    either has been the faster one; from 33 on the table is another.
    """
    m = problem.m
    if config.family == "mma":
        return m <= 16 and config.tile_m == next(tile for tile in (2, 4, 8, 16) if tile >= m)
    if config.tile_m <= 32:
        return 4 < m <= config.tile_m and (m > 16 or config.tile_m == 16)
    if config.shares_block:
        return m > 64
    if config.splits > 1:
        return 32 < m <= config.tile_m * (1 if config.tile_m == 64 else 2)
    return m > 32


def work(config: GemmConfig, resident: int, problem: GemmProblem, num_sms: int) -> Work:
    """How often `problem` makes a configuration, of which an SM holds `resident` CTAs, do what it costs."""
    contributors = 1 if config.shares_block else config.split_k_cluster  # CTAs that share a tile's k
    ctas = config.clusters(problem) * config.cluster_size
    waves = ctas / (num_sms * resident)
    waves = WAVE_START * ceil(waves) + (1 - WAVE_START) * waves
    blocks = -(-problem.k // BLOCK_K) / (contributors * config.split_k_warpgroups)
    weights = problem.n * problem.k if problem.m <= config.tile_m else 0
    fullest = ceil(ctas / num_sms) * config.tile_n * problem.k / contributors
    return Work(waves, blocks, 1e-6 * weights, 1e-6 * fullest)


def modelled_us(config: GemmConfig, cost: Cost, problem: GemmProblem, num_sms: int) -> float:
    """The model's time; right within about 10 % where the sweeps went, a means of comparison elsewhere."""
    return time_us(cost, work(config, cost.resident, problem, num_sms))


def time_us(cost: Cost, done: Work) -> float:
    """The model.

    >>> time_us(Cost(1, 1.0, 1.0, 0.5, 0.1), Work(1.0, 4.0, 40.0, 0.0))
    6.0
    """
    return cost.fixed_us + hypot(
        done.waves * (cost.wave_us + cost.block_us * done.blocks),
        cost.million_us * done.million_weights,
        cost.fullest_us * done.fullest_million,
    )
