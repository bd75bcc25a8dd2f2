"""What is multiplied and how: the frozen problem, the frozen configuration, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

SMEM_BYTES_MAX = 232_448  # a Hopper block's limit: 227 KiB
SMEM_BYTES_SM = 233_472  # an SM's 228 KiB; every block takes 1 KiB beside its own
BLOCK_N, BLOCK_K, BLOCK_BYTES = 64, 128, 4096  # a packed block: columns, k, and bytes of codes

TILES_N = (64, 128, 192, 256)
TILES_M = (8, 16, 32, 64, 96, 128, 192, 256)
TILES_K = (128,)
CLUSTERS = SPLITS = (1, 2)
WARPGROUPS_N = (None, 1, 2, 3, 4)
STAGES_MIN, STAGES_MAX = 2, 8
SCHEDULES = ("cooperative", "pingpong")
SCALES_ON = ("weights", "accumulators")
CTAS_PER_SM = (1, 2)
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

    @property
    def name(self) -> str:
        """The name of the original system's two kernels, or what the fields say."""
        for name, config in NAMED_CONFIGS.items():
            if config == self:
                return name
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
        """Tokens of one staged store, 0 where units go straight from registers to memory.

        32 and two buffers measure as well as a staging buffer for the whole tile.
        """
        return 32 if self.tile_m // self.splits >= 32 else 0

    @property
    def store_buffers(self) -> int:
        return 2 if self.tile_m // self.splits > 32 else 1

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
        most = 232 if self.accumulator_registers <= 160 else 240
        consumer = min((pool - 24) // consumers // 8 * 8, most)
        return consumer, min(pool - consumers * consumer, 40) // 8 * 8


NAMED_CONFIGS = {
    "w4a16_sm90_gemm_128": GemmConfig(128, 128, 128, schedule="cooperative"),
    "w4a16_sm90_gemm_64": GemmConfig(64, 128, 128, schedule="pingpong"),
}


def _align(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def smem_bytes(config: GemmConfig, problem: GemmProblem, stages: int) -> int:
    """Bytes of `SharedStorage` in kernels_src/params.cuh; the compiler checks that both count alike."""
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
    for field, allowed in (
        ("tile_n", TILES_N),
        ("tile_m", TILES_M),
        ("tile_k", TILES_K),
        ("cluster_n", CLUSTERS),
        ("cluster_m", CLUSTERS),
        ("schedule", SCHEDULES),
        ("warpgroups_n", WARPGROUPS_N),
        ("split_k_warpgroups", SPLITS),
        ("split_k_cluster", SPLITS),
        ("scale_on", SCALES_ON),
        ("ctas_per_sm", CTAS_PER_SM),
    ):
        value = getattr(config, field)
        if value not in allowed:
            return f"{field} is {value!r}; allowed are {', '.join(map(repr, allowed))}"
    if config.stages is not None and config.stages % config.split_k_warpgroups:
        return f"stages is {config.stages}: it must be a multiple of split_k_warpgroups = {config.split_k_warpgroups}"
    if config.stages is not None and not STAGES_MIN <= config.stages <= STAGES_MAX:
        return f"stages is {config.stages}; allowed are {STAGES_MIN} to {STAGES_MAX}, or None for as many as fit"
    return _shape_reason(config) or _resource_reason(config, problem)


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
