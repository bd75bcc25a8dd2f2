"""What is multiplied and how: the frozen problem, the frozen configuration, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

SMEM_BYTES_MAX = 232_448  # a Hopper block's limit: 227 KiB
SMEM_BYTES_SM = 233_472  # an SM's 228 KiB; every block takes 1 KiB beside its own
BLOCK_N, BLOCK_K, BLOCK_BYTES = 64, 128, 4096  # a packed block: columns, k, and bytes of codes

FAMILIES = ("wgmma", "mma")
TILES_N = (64, 128, 192, 256)
TILES_M = (8, 16, 32, 64, 96, 128, 192, 256)
TILES_K = (128,)
CLUSTERS = SPLITS = (1, 2)
WARPGROUPS_N = (None, 1, 2, 3, 4)
STAGES_MIN, STAGES_MAX = 2, 8
SCHEDULES = ("cooperative", "pingpong")
SCALES_ON = ("weights", "accumulators")
CTAS_PER_SM = (1, 2)
# The family of mma.sync, for the fewest tokens.
MMA_TILES_N = (16, 32, 64)
MMA_TILES_M = (2, 4, 8)
MMA_WARPGROUPS = (1, 2, 4)
MMA_STAGES = (1, 2, 4)
MMA_CTAS_PER_SM = (1, 2, 3, 4)
FEW_TOKENS = 64  # up to here steps are taken in batches, and sums may be scaled instead of weights

ITEM_BYTES = {"uint8": 1, "int8": 1, "float16": 2, "bfloat16": 2, "int32": 4, "float32": 4}


@dataclass(frozen=True)
class GemmProblem:
    """One product `c (m, n) = a (m, k) @ w (k, n)`: its sizes, and the dtypes by name.

    `group_size` is -1 (one group of all k) or a power of two from 32; `dtype` is that of `a`, "float16" or
    "bfloat16"; `zeros` is None (symmetric) or the zeros' dtype; `out_dtype` is `dtype` or "float32".

    >>> GemmProblem(16, 4096, 4096).group_size
    128
    """

    m: int
    n: int
    k: int
    group_size: int = 128
    dtype: str = "float16"
    zeros: str | None = None
    out_dtype: str = "float16"


@dataclass(frozen=True)
class GemmConfig:
    """How a kernel cuts the work: tiles read weights x tokens x k.

    - `tile_n` (weights), `tile_m` (tokens), `tile_k`: a CTA's tile.
    - `cluster_n` CTAs share activations, `cluster_m` CTAs share weights, by multicast.
    - `stages` of `tile_k` are in flight; None: as many as shared memory holds, at most eight.
    - `schedule`: "cooperative", `warpgroups_n` warpgroups share a tile's columns (None: one for
      64, three for 192, else two);
      "pingpong", two warpgroups take whole tiles in turns.
    - k is split over `split_k_warpgroups` of a CTA and over `split_k_cluster` CTAs of a cluster.
    - `scale_on`: "weights" before the product, or "accumulators" after each 64 k of it.
    - `ctas_per_sm`: how many CTAs registers and shared memory are cut for.
    - `family`: "wgmma", or "mma" for the fewest tokens: codes straight to registers, `stages` blocks of 128 k in
      flight a warp, all warps of `split_k_warpgroups` along k, scales on the sums; its other fields are fixed.

    >>> GemmConfig(tile_n=64, schedule="pingpong").name
    'w4a16_sm90_gemm_64'
    >>> GemmConfig(256, 128).name
    '256x128x128_1x1_cooperative'
    """

    tile_n: int = 128
    tile_m: int = 128
    tile_k: int = 128
    cluster_n: int = 1
    cluster_m: int = 1
    stages: int | None = None
    schedule: str = "cooperative"
    warpgroups_n: int | None = None
    split_k_warpgroups: int = 1
    split_k_cluster: int = 1
    scale_on: str = "weights"
    ctas_per_sm: int = 1
    family: str = "wgmma"

    @property
    def name(self) -> str:
        """The name of the original system's two kernels, or what the fields say."""
        for name, config in NAMED_CONFIGS.items():
            if config == self:
                return name
        if self.family == "mma":
            tile = f"{self.tile_n}x{self.tile_m}x{self.tile_k}"
            return f"mma_{tile}_k{self.split_k_warpgroups}_b{self.ctas_per_sm}_s{self.stages}"
        parts = [
            f"{self.tile_n}x{self.tile_m}x{self.tile_k}",
            f"{self.cluster_n}x{self.cluster_m}",
            self.schedule,
            f"w{self.warpgroups_n}" if self.warpgroups_n else "",
            f"k{self.split_k_warpgroups}x{self.split_k_cluster}" if self.splits > 1 else "",
            "acc" if self.scale_on == "accumulators" else "",
            f"b{self.ctas_per_sm}" if self.ctas_per_sm > 1 else "",
            f"s{self.stages}" if self.stages else "",
        ]
        return "_".join(part for part in parts if part)

    @property
    def cluster_size(self) -> int:
        return self.cluster_n * self.cluster_m * self.split_k_cluster

    @property
    def splits(self) -> int:
        """Contributors to one sum along k."""
        return self.split_k_warpgroups * self.split_k_cluster

    @property
    def stage_readers(self) -> int:
        """Warpgroups that read one stage: those that share a tile's columns."""
        if self.schedule == "pingpong":
            return 1
        return self.warpgroups_n or {BLOCK_N: 1, 3 * BLOCK_N: 3}.get(self.tile_n, 2)

    @property
    def consumer_warpgroups(self) -> int:
        return 2 if self.schedule == "pingpong" else self.stage_readers * self.split_k_warpgroups

    @property
    def threads(self) -> int:
        if self.family == "mma":
            return self.split_k_warpgroups * 128
        return (self.consumer_warpgroups + 1) * 128

    @property
    def warpgroup_blocks(self) -> int:
        """Blocks of 64 columns that a warpgroup multiplies."""
        return self.tile_n // BLOCK_N // self.stage_readers

    @property
    def batch_steps(self) -> int:
        """k16 steps between two waits: with few tokens a wgmma is shorter than its latency, so four at once."""
        return 4 if self.tile_m <= FEW_TOKENS else 1

    @property
    def store_tokens(self) -> int:
        """Tokens of one staged store, 0 where units go straight from registers to memory."""
        tokens = self.tile_m // self.splits if self.family == "wgmma" else 0
        return next((size for size in (64, 32) if tokens and not tokens % size), 0)

    @property
    def store_buffers(self) -> int:
        """With two, no store waits for the one before it to have read its buffer."""
        return 2 if self.tile_m // self.splits > self.store_tokens else 1

    @property
    def accumulator_registers(self) -> int:
        """float32 sums a consumer thread holds."""
        sets = 2 if self.scale_on == "accumulators" else 1
        return sets * self.warpgroup_blocks * self.tile_m // 2

    @property
    def registers(self) -> tuple[int, int]:
        """Registers of a consumer and of a producer thread: what the producer gives up, consumers take."""
        entry = min(65_536 // (self.threads * self.ctas_per_sm), 240) // 8 * 8
        consumers = self.consumer_warpgroups
        pool = entry * (consumers + 1)
        consumer = min((pool - 32) // consumers // 8 * 8, 232)
        return consumer, min(pool - consumers * consumer, 40) // 8 * 8


NAMED_CONFIGS = {
    "w4a16_sm90_gemm_128": GemmConfig(128, 128, 128, schedule="cooperative"),
    "w4a16_sm90_gemm_64": GemmConfig(64, 128, 128, schedule="pingpong"),
}


def _align(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def smem_bytes(config: GemmConfig, problem: GemmProblem, stages: int) -> int:
    """Bytes of `SharedStorage` in kernels_src/params.cuh; the compiler checks that both count alike."""
    if config.family == "mma":
        return _mma_smem_bytes(config)
    groups = stage_groups(problem)
    slabs = BLOCK_N * ITEM_BYTES[problem.out_dtype] // 128
    zero_bytes = stages * groups * config.tile_n * ITEM_BYTES[problem.zeros] if problem.zeros else 16
    consumers, staged = config.consumer_warpgroups, config.store_tokens > 0
    result_bytes = consumers * config.store_buffers * slabs * config.store_tokens * 128 if staged else slabs * 16
    share_bytes = config.warpgroup_blocks * config.tile_m // config.splits * BLOCK_N * 4
    partial_bytes = consumers * ((config.splits - 1) * share_bytes if config.splits > 1 else 16)
    size = stages * config.tile_m * BLOCK_K * 2
    size = _align(size + result_bytes, 128)
    size = _align(size + partial_bytes, 128)
    size += stages * config.tile_n // BLOCK_N * BLOCK_BYTES
    size = _align(size + stages * groups * config.tile_n * 2, 128)
    size = _align(size + zero_bytes, 8) + 8 * (2 * stages + consumers)
    return _align(size, 1024)


def _mma_smem_bytes(config: GemmConfig) -> int:
    """Bytes of `DecodeStorage` in kernels_src/decode.cuh."""
    warps = config.threads // 32
    activations = warps * (config.stages or 1) * config.tile_m * BLOCK_K * 2
    sums = warps * config.tile_n // 16 * 8 * 20 * 4
    return _align(activations + _align(sums, 128) + 16, 128)


def smem_limit(config: GemmConfig) -> int:
    """Bytes of shared memory that one CTA may take."""
    return min(SMEM_BYTES_MAX, SMEM_BYTES_SM // config.ctas_per_sm - 1024)


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
    # Warpgroups that take stages in turns must always meet the same ones: see Turns in kernels_src/gemm.cuh.
    return stages // config.split_k_warpgroups * config.split_k_warpgroups


def invalid_reason(config: GemmConfig, problem: GemmProblem) -> str | None:
    """Says which rule `config` breaks for `problem`, or None where it breaks none."""
    if config.family not in FAMILIES:
        return f"family is {config.family!r}; allowed are {', '.join(map(repr, FAMILIES))}"
    for field, allowed in _ALLOWED[config.family].items():
        value = getattr(config, field)
        if value not in allowed:
            return f"{field} is {value!r}; allowed are {', '.join(map(repr, allowed))}"
    if config.family == "mma":
        return _mma_reason(config, problem)
    if config.stages is not None and config.stages % config.split_k_warpgroups:
        return f"stages is {config.stages}: it must be a multiple of split_k_warpgroups = {config.split_k_warpgroups}"
    if config.stages is not None and not STAGES_MIN <= config.stages <= STAGES_MAX:
        return f"stages is {config.stages}; allowed are {STAGES_MIN} to {STAGES_MAX}, or None for as many as fit"
    return _shape_reason(config) or _resource_reason(config, problem)


_ALLOWED: dict[str, dict[str, tuple[object, ...]]] = {
    "wgmma": {
        "tile_n": TILES_N,
        "tile_m": TILES_M,
        "tile_k": TILES_K,
        "cluster_n": CLUSTERS,
        "cluster_m": CLUSTERS,
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
    threads = config.threads * config.ctas_per_sm
    if threads > 2048:
        return f"{config.ctas_per_sm} CTAs of {config.threads} threads are {threads}; an SM holds 2048"
    # A tile's codes, scales and zeros in flight, its sums and weights; the rest is activations and addresses.
    tiles, stages = config.tile_n // 16, config.stages or 1
    in_flight = 8 + stage_groups(problem) * (3 if problem.zeros else 1)
    needed, had = tiles * stages * in_flight + 6 * tiles + 40, min(65_536 // threads, 255)
    if needed > had:
        return f"{stages} stages of tile_n = {config.tile_n} need about {needed} registers a thread; there are {had}"
    smem, limit = _mma_smem_bytes(config), smem_limit(config)
    if smem > limit:
        return f"{config.stages} stages of {config.tile_m} tokens need {smem} bytes of shared memory; a CTA has {limit}"
    return None


def _shape_reason(config: GemmConfig) -> str | None:
    """Fields that do not go together."""
    if config.schedule == "pingpong":
        if config.warpgroups_n is not None or config.split_k_warpgroups > 1:
            return "pingpong's warpgroups take whole tiles: warpgroups_n must be None and split_k_warpgroups 1"
    elif config.tile_n % (config.stage_readers * BLOCK_N):
        return f"{config.stage_readers} warpgroups can't share tile_n = {config.tile_n}: each takes multiples of 64"
    if config.consumer_warpgroups > 4:
        return f"{config.consumer_warpgroups} consumer warpgroups would get too few registers; at most 4"
    if config.splits > 1 and config.cluster_n * config.cluster_m > 1:
        return "k is split or operands are shared by multicast, not both: cluster_n and cluster_m must be 1"
    if config.tile_m // 4 < config.splits:
        return f"{config.splits} contributors along k share tile_m = {config.tile_m} tokens: four each at least"
    if config.tile_m // config.cluster_n < 8:
        return f"cluster_n is {config.cluster_n}: each CTA must bring 8 tokens or more of tile_m = {config.tile_m}"
    if config.scale_on == "accumulators" and config.tile_m > FEW_TOKENS:
        return f"scale_on is 'accumulators': tile_m is {config.tile_m}, at most {FEW_TOKENS}"
    return None


def _resource_reason(config: GemmConfig, problem: GemmProblem) -> str | None:
    """What the problem's dtypes and groups make too large."""
    if config.scale_on == "accumulators" and problem.group_size == 32:
        return "scale_on is 'accumulators', which are scaled every 64 k: group_size is 32, at least 64"
    needed, had = config.accumulator_registers, config.registers[0]
    if needed > had - 40:
        return f"a thread would hold {needed} float32 sums; of its {had} registers {had - 40} are left for them"
    stages = resolved_stages(config, problem)
    needed, had = smem_bytes(config, problem, stages), smem_limit(config)
    if needed > had:
        return (
            f"{stages} stages with group_size {problem.group_size} and zeros {problem.zeros} need {needed} bytes of "
            f"shared memory; a CTA has {had}"
        )
    return None


def is_valid(config: GemmConfig, problem: GemmProblem) -> bool:
    """True where `config` can run `problem`.

    >>> is_valid(GemmConfig(64, 128, warpgroups_n=2), GemmProblem(1, 64, 64))
    False
    """
    return invalid_reason(config, problem) is None
