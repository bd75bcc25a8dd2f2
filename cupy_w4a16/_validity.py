"""Which configurations can run which problems: allowed values, and a reason for every rule.

Counts of registers are from compiling kernels on 2026-11-22, with an NVRTC whose version was not noted.
`tests/test_kernels.py` compiles every configuration with the one that is installed and looks for spills.
"""

from __future__ import annotations

from ._config import FEW_TOKENS, GemmConfig, GemmProblem
from ._dtypes import ITEM_BYTES
from ._pack import BLOCK_N
from ._smem import STAGES_MAX, STAGES_MIN, resolved_stages, smem_bytes, smem_limit, stage_groups

FAMILIES = ("wgmma", "mma")
TILES_N = (64, 96, 128, 160, 192, 224, 256)
TILES_M = (8, 16, 32, 64, 96, 128, 192, 256)
TILES_K = (128,)
CLUSTERS = SPLITS = (1, 2)
WARPGROUPS_N = (None, 1, 2, 3, 4)
STAGES = (None, *range(STAGES_MIN, STAGES_MAX + 1))  # None: as many as fit
SCHEDULES = ("cooperative", "pingpong")
SCALES_ON = ("weights", "accumulators")
CTAS_PER_SM = (1, 2)
# The family of mma.sync, for the fewest tokens. With 64 columns kernels spilled, by the activation and dtype,
# that the rule of registers lets pass, up to 52 bytes a thread; and no configuration of the table had them.
MMA_TILES_N = (16, 32)
MMA_TILES_M = (2, 4, 8, 16)
MMA_WARPGROUPS = (1, 2, 4)
MMA_STAGES = (1, 2, 4)
MMA_CTAS_PER_SM = (1, 2, 3, 4)


def invalid_reason(config: GemmConfig, problem: GemmProblem) -> str | None:
    """Says which rule `config` breaks for `problem`, or None where it breaks none."""
    if not _is_one_of(config.family, FAMILIES):
        return f"family is {config.family!r}; allowed are {', '.join(map(repr, FAMILIES))}"
    for field, allowed in _ALLOWED[config.family].items():
        value = getattr(config, field)
        if not _is_one_of(value, allowed):
            return f"{field} is {value!r}; allowed are {', '.join(map(repr, allowed))}"
    if config.family == "mma":
        return _mma_reason(config, problem)
    if config.stages is not None and config.stages % config.split_k_warpgroups:
        multiple = config.split_k_warpgroups
        return f"stages is {config.stages}: it must be a multiple of split_k_warpgroups = {multiple}"
    return _shape_reason(config) or _resource_reason(config, problem)


def _is_one_of(value: object, allowed: tuple[object, ...]) -> bool:
    # 64.0, True and members of enums equal what is allowed, but make another text, and NumPy's integers wrap
    # around: what is remembered by configuration would be wrong for the equal one of plain values too.
    return type(value) in (int, str, type(None)) and value in allowed


_ALLOWED: dict[str, dict[str, tuple[object, ...]]] = {
    "wgmma": {
        "tile_n": TILES_N,
        "tile_m": TILES_M,
        "tile_k": TILES_K,
        "cluster_n": CLUSTERS,
        "cluster_m": CLUSTERS,
        "stages": STAGES,
        "schedule": SCHEDULES,
        "warpgroups_n": WARPGROUPS_N,
        "split_k_warpgroups": SPLITS,
        "split_k_cluster": SPLITS,
        "scale_on": SCALES_ON,
        "ctas_per_sm": CTAS_PER_SM,
    },
    "mma": {
        "tile_n": MMA_TILES_N,
        "tile_m": MMA_TILES_M,
        "tile_k": TILES_K,
        "cluster_n": (1,),
        "cluster_m": (1,),
        "stages": MMA_STAGES,
        "schedule": ("cooperative",),
        "warpgroups_n": (None,),
        "split_k_warpgroups": MMA_WARPGROUPS,
        "split_k_cluster": (1,),
        "scale_on": ("accumulators",),
        "ctas_per_sm": MMA_CTAS_PER_SM,
    },
}


def _mma_reason(config: GemmConfig, problem: GemmProblem) -> str | None:
    """What registers and shared memory of the mma family can't hold."""
    # A tile's codes, scales and zeros in flight, its sums and weights; the rest is activations and addresses.
    # (Numbers from compiling two hundred kernels; ptxas keeps more of several groups alive than it must.)
    tiles, stages, groups = config.tile_n // 16, config.stages or 1, stage_groups(problem)
    zeros = 0 if problem.zeros is None else max(1, ITEM_BYTES[problem.zeros] // 2)  # registers of a pair
    second_eight = config.tile_m > 8
    needed = 36 + tiles * (stages * (9 + zeros) + 4 + 20 * second_eight + 3 * (groups - 1))
    if problem.zeros in ("float16", "bfloat16", "float32"):  # sums of activations
        needed += 6 + 12 * second_eight * (groups - 1)
    if second_eight and groups == 2 and ITEM_BYTES.get(problem.zeros or "", 0) > 1:  # not so with one or four
        needed += 44
    if problem.zeros == "float32":
        needed += {1: 0, 2: 4, 4: 18}[groups]
    if problem.dtype == "bfloat16" and groups > 1:  # rotated words
        needed += 4
    had = min(65_536 // (config.threads * config.ctas_per_sm), 255) // 8 * 8
    if needed > had:
        return f"{stages} stages of {config.tile_n} columns need about {needed} registers a thread, not {had}"
    smem, limit = smem_bytes(config, problem, stages), smem_limit(config)
    if smem > limit:
        return (
            f"{stages} stages of {config.tile_m} tokens need {smem} bytes of shared memory; {limit} are there"
        )
    return None


def _shape_reason(config: GemmConfig) -> str | None:
    """Fields that do not go together."""
    shared = config.split_k_cluster, config.splits, config.schedule
    if config.shares_block and shared != (2, 2, "cooperative"):
        return (
            f"tile_n is {config.tile_n}, where two CTAs share a block: split_k_cluster must be 2, "
            "split_k_warpgroups 1 and schedule 'cooperative'"
        )
    if config.schedule == "pingpong":
        # With k split a CTA has one tile, and its second warpgroup would have none.
        if config.warpgroups_n is not None or config.splits > 1:
            return (
                "pingpong's warpgroups take whole tiles in turns: warpgroups_n must be None, "
                "split_k_warpgroups 1 and split_k_cluster 1"
            )
    elif config.stage_n % (config.stage_readers * BLOCK_N):
        readers, columns = config.stage_readers, config.stage_n
        return f"{readers} warpgroups can't share a stage's {columns} columns in blocks of 64"
    if config.consumer_warpgroups > 4:
        return f"{config.consumer_warpgroups} consumer warpgroups would get too few registers; at most 4"
    if config.splits > 1 and config.cluster_n * config.cluster_m > 1:
        return "k is split or operands are shared by multicast, not both: cluster_n and cluster_m must be 1"
    if config.tile_m // 4 < config.splits:
        return (
            f"{config.splits} contributors along k share tile_m = {config.tile_m} tokens: four each at least"
        )
    if config.tile_m // config.cluster_n < 8:
        return f"cluster_n is {config.cluster_n}: each CTA brings at least 8 of tile_m = {config.tile_m}"
    if config.scale_on == "accumulators" and config.tile_m > FEW_TOKENS:
        return f"scale_on is 'accumulators': tile_m is {config.tile_m}, at most {FEW_TOKENS}"
    return None


def _register_reason(config: GemmConfig, problem: GemmProblem) -> str | None:
    """Where ptxas would spill, or serialise wgmma; thresholds from compiling a thousand kernels."""
    sums, had = config.accumulator_registers, config.registers[0]
    held = config.warpgroup_blocks * (8 + 8 * config.batch_steps(normalised=True))  # words and fragments
    if config.scale_on == "accumulators":
        spare = 8
    elif config.warpgroup_blocks > 2:
        return f"a warpgroup would scale the weights of {config.warpgroup_blocks} blocks; at most 2"
    elif config.shares_block and problem.zeros == "float32" and stage_groups(problem) > 1:
        spare = 64  # two loops, each with the widest scales
    else:
        spare = 40
    if had - sums - held < spare:
        return f"a thread would hold {sums} float32 sums and {held} words and weights; it has {had} registers"
    return None


def _resource_reason(config: GemmConfig, problem: GemmProblem) -> str | None:
    """What the problem's dtypes and groups make too large."""
    if config.scale_on == "accumulators" and problem.group_size == 32:
        return "scale_on is 'accumulators', which are scaled every 64 k: group_size is 32, at least 64"
    if reason := _register_reason(config, problem):
        return reason
    stages = resolved_stages(config, problem)
    if stages < STAGES_MIN * config.split_k_warpgroups:
        return f"{stages} stages are too few: of every second one, a warpgroup needs two"
    needed, had = smem_bytes(config, problem, stages), smem_limit(config)
    if needed > had:
        return (
            f"{stages} stages with group_size {problem.group_size} and zeros {problem.zeros} need {needed} "
            f"bytes of shared memory; a CTA has {had}"
        )
    return None


def is_valid(config: GemmConfig, problem: GemmProblem) -> bool:
    """True where `config` can run `problem`.

    >>> is_valid(GemmConfig(64, 128, warpgroups_n=2), GemmProblem(1, 64, 64))
    False
    """
    return invalid_reason(config, problem) is None
