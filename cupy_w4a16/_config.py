"""What is multiplied and how: the frozen problem, the frozen configuration, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

SMEM_BYTES_MAX = 232_448  # a Hopper block's limit: 227 KiB
BLOCK_N, BLOCK_K, BLOCK_BYTES = 64, 128, 4096  # a packed block: columns, k, and bytes of codes
WARPGROUPS = 2  # consumers in a CTA

TILES_N = (64, 128, 256)
TILES_M = (8, 16, 32, 64, 96, 128, 192, 256)
TILES_K = (128,)
CLUSTERS = (1, 2)
STAGES_MIN, STAGES_MAX = 2, 8
SCHEDULES = ("cooperative", "pingpong")

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

    `tile_n` (weights), `tile_m` (tokens) and `tile_k` are a CTA's tile; `cluster_n` CTAs share activations and
    `cluster_m` CTAs share weights by multicast; `stages` of `tile_k` are in flight (None: as many as shared memory
    holds). With the schedule "cooperative" two warpgroups halve a tile along the weights; with "pingpong" they take
    whole tiles in turns.

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

    @property
    def name(self) -> str:
        """The name of the original system's two kernels, or what the fields say."""
        for name, config in NAMED_CONFIGS.items():
            if config == self:
                return name
        tile = f"{self.tile_n}x{self.tile_m}x{self.tile_k}"
        stages = f"_s{self.stages}" if self.stages else ""
        return f"{tile}_{self.cluster_n}x{self.cluster_m}_{self.schedule}{stages}"

    @property
    def cluster_size(self) -> int:
        return self.cluster_n * self.cluster_m

    @property
    def store_tokens(self) -> int:
        """Tokens of one staged store; 32 and two buffers measure as well as a staging buffer for the whole tile."""
        return min(self.tile_m, 32)

    @property
    def store_buffers(self) -> int:
        return 2 if self.tile_m > self.store_tokens else 1


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
    size = stages * config.tile_m * BLOCK_K * 2
    size += WARPGROUPS * config.store_buffers * slabs * config.store_tokens * 128
    size += stages * config.tile_n // BLOCK_N * BLOCK_BYTES
    size = _align(size + stages * groups * config.tile_n * 2, 128)
    size = _align(size + zero_bytes, 8) + 2 * 8 * stages
    return _align(size, 1024)


def stage_groups(problem: GemmProblem) -> int:
    """Groups of scales in one stage of 128 k."""
    return BLOCK_K // problem.group_size if 0 < problem.group_size < BLOCK_K else 1


@cache
def resolved_stages(config: GemmConfig, problem: GemmProblem) -> int:
    """`config.stages`, or as many as shared memory holds."""
    if config.stages is not None:
        return config.stages
    stages = STAGES_MAX
    while stages > STAGES_MIN and smem_bytes(config, problem, stages) > SMEM_BYTES_MAX:
        stages -= 1
    return stages


def invalid_reason(config: GemmConfig, problem: GemmProblem) -> str | None:
    """Says which rule `config` breaks for `problem`, or None where it breaks none."""
    for field, allowed in (
        ("tile_n", TILES_N),
        ("tile_m", TILES_M),
        ("tile_k", TILES_K),
        ("cluster_n", CLUSTERS),
        ("cluster_m", CLUSTERS),
        ("schedule", SCHEDULES),
    ):
        value = getattr(config, field)
        if value not in allowed:
            return f"{field} is {value!r}; allowed are {', '.join(map(repr, allowed))}"
    if config.stages is not None and not STAGES_MIN <= config.stages <= STAGES_MAX:
        return f"stages is {config.stages}; allowed are {STAGES_MIN} to {STAGES_MAX}, or None for as many as fit"
    if config.schedule == "cooperative" and config.tile_n < WARPGROUPS * BLOCK_N:
        return f"the cooperative schedule halves tile_n, which must be 128 or more and is {config.tile_n}"
    if config.schedule == "pingpong" and config.tile_n > 128:
        return f"the pingpong schedule keeps a tile in one warpgroup's registers: tile_n is {config.tile_n}, at most 128"
    accumulators = accumulator_registers(config)
    if accumulators > 192:
        return f"a thread would hold {accumulators} accumulators; 192 fit its registers"
    if config.tile_m // config.cluster_n < 8:
        return f"cluster_n is {config.cluster_n}: each CTA must bring 8 tokens or more of tile_m = {config.tile_m}"
    needed = smem_bytes(config, problem, resolved_stages(config, problem))
    if needed > SMEM_BYTES_MAX:
        return (
            f"{resolved_stages(config, problem)} stages with group_size {problem.group_size} and zeros "
            f"{problem.zeros} need {needed} bytes of shared memory; a block has {SMEM_BYTES_MAX}"
        )
    return None


def accumulator_registers(config: GemmConfig) -> int:
    """float32 accumulators a consumer thread holds."""
    blocks = config.tile_n // BLOCK_N // (1 if config.schedule == "pingpong" else WARPGROUPS)
    return max(blocks, 1) * config.tile_m // 2


def is_valid(config: GemmConfig, problem: GemmProblem) -> bool:
    """True where `config` can run `problem`.

    >>> is_valid(GemmConfig(64, 128), GemmProblem(1, 64, 64))
    False
    """
    return invalid_reason(config, problem) is None
