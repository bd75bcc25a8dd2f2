"""What is multiplied and how: the frozen problem and the frozen configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ._pack import BLOCK_N

#: Of a tile: up to here four k16 steps go between two waits, sums may be scaled instead of weights, and a
#: split of k is chosen without `_costs.SPLIT_MARGIN`.
FEW_TOKENS = 64


@dataclass(frozen=True)
class GemmProblem:
    """One product `c (m, n) = a (m, k) @ w (k, n)`: its sizes, and the dtypes by name.

    `m`, `n`, `k` are 0 or more. `group_size` is -1 (one group of all k) or a power of two from 32; `dtype` is
    that of `a`, "float16" or "bfloat16"; `zeros` is None (symmetric), "uint8", "int8", "int32", "float32" or
    `dtype`; `out_dtype` is `dtype` or "float32". Functions that are given one check this, but for which half
    `out_dtype` is, so that `dtype` alone makes a bfloat16 problem.

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
    - `schedule`: "cooperative", `warpgroups_n` warpgroups share a tile's columns (None: one for 64, three for
      160 and 192, else two); "pingpong", two warpgroups take whole tiles in turns, and k is not split.
    - k is split over `split_k_warpgroups` of a CTA and over `split_k_cluster` CTAs of a cluster. With
      `tile_n` an odd multiple of 32, a cluster of two takes 2 x `tile_n` columns, and only k of the 64 in the
      middle is split.
    - `scale_on`: "weights" before the product, or "accumulators" after each 64 k of it.
    - `ctas_per_sm`: how many CTAs registers and shared memory are cut for.
    - `family`: "wgmma", or "mma" for the fewest tokens: codes straight to registers, `stages` blocks of 128 k
      in flight a warp, all warps of `split_k_warpgroups` along k, scales on the sums; other fields are fixed.

    Whether values go together depends on the problem: `configs(problem)` lists what does, and `gemm`,
    `workspace_bytes` and `occupancy` raise a ValueError that names the rule a configuration breaks.

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
        """What the fields say; a name of their own for the two, 128x128x128 cooperative and 64x128x128
        pingpong, that are compiled at import by default."""
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
    def shares_block(self) -> bool:
        """Whether two CTAs share the block of 64 columns between them, half its k each."""
        return self.family == "wgmma" and self.tile_n % BLOCK_N != 0

    @property
    def stage_n(self) -> int:
        """Columns of a stage: whole blocks."""
        return -(-self.tile_n // BLOCK_N) * BLOCK_N

    @property
    def cluster_tile_n(self) -> int:
        """Columns of a cluster's tile."""
        return self.tile_n * (2 if self.shares_block else self.cluster_n)

    @property
    def cluster_size(self) -> int:
        """CTAs of a cluster."""
        return self.cluster_n * self.cluster_m * self.split_k_cluster

    def clusters(self, problem: GemmProblem) -> int:
        """Tiles of whole clusters that cover the result."""
        tiles_n = -(-problem.n // self.cluster_tile_n)
        return tiles_n * -(-problem.m // (self.tile_m * self.cluster_m))

    @property
    def splits(self) -> int:
        """Contributors to one sum along k."""
        return self.split_k_warpgroups * self.split_k_cluster

    @property
    def stage_readers(self) -> int:
        """Warpgroups that read one stage: those that share a tile's columns."""
        if self.schedule == "pingpong":
            return 1
        return self.warpgroups_n or {BLOCK_N: 1, 3 * BLOCK_N: 3}.get(self.stage_n, 2)

    @property
    def consumer_warpgroups(self) -> int:
        """Warpgroups of a CTA that multiply; one more, the producer, loads (family "wgmma")."""
        return 2 if self.schedule == "pingpong" else self.stage_readers * self.split_k_warpgroups

    @property
    def threads(self) -> int:
        """Threads of a CTA."""
        if self.family == "mma":
            return self.split_k_warpgroups * 128
        return (self.consumer_warpgroups + 1) * 128

    @property
    def warpgroup_blocks(self) -> int:
        """Blocks of 64 columns that a warpgroup multiplies."""
        return self.stage_n // BLOCK_N // self.stage_readers

    def batch_steps(self, normalised: bool) -> int:
        """k16 steps between two waits: four where tokens are few, and a wgmma is shorter than its latency.

        With more tokens two, where the dequantization is short (`normalised` scales) or little else hides it;
        otherwise one measured better, by 1 to 5 %.
        """
        if self.tile_m <= FEW_TOKENS:
            return 4
        return 2 if normalised or self.schedule == "pingpong" or self.splits > 1 else 1

    @property
    def store_tokens(self) -> int:
        """Tokens of one staged store, 0 where units go straight from registers to memory.

        At most 64: a buffer for all tokens of a tile measured no faster, and takes the room of stages.
        """
        tokens = self.tile_m // self.splits if self.family == "wgmma" else 0
        sizes = (32,) if self.tile_m == 256 else (64, 32)  # with 256 tokens, stages need the room
        return next((size for size in sizes if tokens and not tokens % size), 0)

    @property
    def store_buffers(self) -> int:
        """With two, no store waits for the one before it to have read its buffer."""
        return 2 if self.store_tokens < self.tile_m // self.splits < 256 else 1

    @property
    def accumulator_registers(self) -> int:
        """float32 sums a consumer thread holds."""
        sets = 2 if self.scale_on == "accumulators" else 1
        return sets * self.warpgroup_blocks * self.tile_m // 2

    @property
    def registers(self) -> tuple[int, int]:
        """Registers of a consumer and of a producer thread: what the producer gives up, consumers take.

        All start with an equal share of an SM's 65,536, in the steps of 8 that setmaxnreg counts in; so three
        warpgroups of 168 become two of 232 and one of 40, the most that any get. A producer keeps 32 at
        least: with 24, the fewest that setmaxnreg gives, one spilled.
        """
        entry = 65_536 // (self.threads * self.ctas_per_sm) // 8 * 8
        consumers = self.consumer_warpgroups
        pool = entry * (consumers + 1)
        consumer = min((pool - 32) // consumers // 8 * 8, 232)
        return consumer, min(pool - consumers * consumer, 40) // 8 * 8


#: The two whose kernels are compiled at import, unless `CUPY_W4A16_COMPILE` says otherwise.
NAMED_CONFIGS = {
    "w4a16_sm90_gemm_128": GemmConfig(128, 128, 128, schedule="cooperative"),
    "w4a16_sm90_gemm_64": GemmConfig(64, 128, 128, schedule="pingpong"),
}
