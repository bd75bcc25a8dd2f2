// The producer warpgroup: fills the ring of stages from global memory. Each of its warps has one task:
//
//   warp 0  weights: codes (one bulk copy a block) and, where their rows are aligned, scales and zeros (TMA)
//   warp 1  activations (two TMA boxes of 64 k), once the kernels before this one have written them
//   warp 2  scales and zeros that TMA can't bring (n not a multiple of 8, say), element by element
#pragma once

#include "params.cuh"
#include "ptx.cuh"
#include "scheduler.cuh"
#include "storage.cuh"

namespace w4a16 {

template <class Config>
struct Producer {
  using Storage = SharedStorage<Config>;
  using Scale = typename Storage::Scale;
  using Zero = typename Storage::Zero;
  static constexpr int kBlocks = Storage::kBlocks;
  static constexpr int kGroups = kStageGroups<Config>;
  static constexpr uint32_t kTokenBytes = kBlockK * 2;  // of a stage's activations

  const Params& params;
  Storage& smem;

  // Where one tile holds all tokens, weights are read once and activations by every tile: L2 should keep the latter.
  __device__ __forceinline__ bool single_pass() const { return params.m <= Config::kTileM; }
  __device__ __forceinline__ uint64_t weight_policy() const {
    return single_pass() ? kEvictFirst : kEvictNormal;
  }
  __device__ __forceinline__ uint64_t activation_policy() const {
    return single_pass() ? kEvictLast : kEvictNormal;
  }

  // Columns of the stage that exist.
  __device__ __forceinline__ int columns(const Tile& tile) const {
    return max(0, min(kStageN<Config>, params.n - tile.n));
  }

  // One thread.
  __device__ __forceinline__ void run_weights() const {
    for_each_stage(
        [&](const TileScheduler<Config>& scheduler, const Tile& tile, int k_block, uint32_t stage_idx) {
          const Run run = blocks(scheduler, tile, k_block);
          Barrier::arrive_and_expect_tx(&smem.full[stage_idx], weight_bytes(run));
          load_codes(scheduler, tile, k_block, stage_idx, run);
          if (params.aligned_groups) load_groups(tile, k_block, stage_idx);
        });
  }

  // Tokens to bring for the tile. The copy engine takes long over rows that don't exist, and nobody looks at what shared
  // memory holds in their place: sums of other tokens don't depend on it.
  __device__ __forceinline__ int tokens(const Tile& tile) const {
    return Config::kClusterN == 1 ? max(0, min(Config::kTileM, params.m - tile.m)) : Config::kTileM;
  }

  // The map whose boxes hold so many tokens.
  __device__ __forceinline__ const TensorMap& map_for(int tokens) const {
    return tokens == Config::kTileM ? params.a_map : params.a_tail_map;
  }

  // One thread.
  __device__ __forceinline__ void run_activations() const {
    const TensorMap& first = map_for(tokens(Tile{0, 0}));
    cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(&first));
    wait_for_dependencies();
    for_each_stage(
        [&](const TileScheduler<Config>& scheduler, const Tile& tile, int k_block, uint32_t stage_idx) {
          Barrier::arrive_and_expect_tx(&smem.full[stage_idx], tokens(tile) * kTokenBytes);
          if (tokens(tile) > 0) load_activations(scheduler, tile, k_block, stage_idx);
        });
  }

  // One warp.
  __device__ __forceinline__ void run_unaligned_groups() const {
    const int lane = threadIdx.x % 32;
    for_each_stage([&](const TileScheduler<Config>&, const Tile& tile, int k_block, uint32_t stage_idx) {
#pragma unroll 1
      for (int group = 0; group < kGroups; ++group) {
        const int64_t row = group_row<Config>(params, k_block, group);
        copy_row(smem.scales[stage_idx][group],
                 static_cast<const Scale*>(params.scales) + row * params.scales_stride + tile.n,
                 columns(tile), lane);
        if constexpr (kHasZeros<Config>) {
          copy_row(smem.zeros_of(stage_idx, group),
                   static_cast<const Zero*>(params.zeros) + row * params.zeros_stride + tile.n, columns(tile),
                   lane);
        }
      }
      Barrier::arrive(&smem.full[stage_idx]);  // every lane for its own stores
    });
  }

 private:
  // Calls load(scheduler, tile, k_block, stage_idx) for every stage of this CTA's tiles, as soon as it is empty.
  template <class Load>
  __device__ __forceinline__ void for_each_stage(const Load& load) const {
    PipelineState<Config::kStages> state;
    const int k_blocks = ceil_div(params.k, kBlockK);
    for (TileScheduler<Config> scheduler(params); !scheduler.done(); scheduler.next()) {
      const Tile tile = scheduler.tile();
      const int first = scheduler.first_k_block(k_blocks), count = scheduler.num_k_blocks(k_blocks);
#pragma unroll 1
      for (int i = 0; i < count; ++i, state.advance()) {
        Barrier::wait(&smem.empty[state.stage_idx], state.phase ^ 1);
        load(scheduler, tile, first + i, state.stage_idx);
      }
    }
  }

  template <class T>
  __device__ __forceinline__ static void copy_row(T* smem_row, const T* row, int count, int lane) {
#pragma unroll
    for (int i = 0; i < kStageN<Config>; i += 32) {
      if (i + lane < count) smem_row[i + lane] = row[i + lane];
    }
  }

  struct Run {
    int first, end;
  };

  // Blocks of the stage to bring: those that exist, but in the peer's half of k not the shared one, the last or the first.
  __device__ __forceinline__ Run blocks(const TileScheduler<Config>& scheduler, const Tile& tile,
                                        int k_block) const {
    Run run{0, kBlocks == 1 ? (columns(tile) > 0) : ceil_div(columns(tile), kBlockN)};
    if constexpr (kSharesBlock<Config>) {
      const bool second_half = k_block >= scheduler.middle(ceil_div(params.k, kBlockK));
      if (scheduler.rank_k == 0 && second_half) run.end = min(run.end, kBlocks - 1);
      if (scheduler.rank_k == 1 && !second_half) run.first = min(run.end, 1);
    }
    return run;
  }

  // What lands in this CTA's stage beside activations, from its own copies and from its cluster's multicasts.
  __device__ __forceinline__ uint32_t weight_bytes(const Run& run) const {
    uint32_t bytes = (run.end - run.first) * kBlockBytes;
    if (params.aligned_groups) {
      bytes += kStageN<Config> * kGroups * (sizeof(Scale) + (kHasZeros<Config> ? sizeof(Zero) : 0));
    }
    return bytes;
  }

  // CTAs of the cluster along m share the codes: each brings a part of every block to all of them.
  __device__ __forceinline__ void load_codes(const TileScheduler<Config>& scheduler, const Tile& tile,
                                             int k_block, uint32_t stage_idx, const Run& run) const {
    constexpr uint32_t kPart = kBlockBytes / Config::kClusterM;
    const uint8_t* source = params.b_packed + int64_t(tile.n / kBlockN + run.first) * params.b_row_bytes +
                            int64_t(k_block) * kBlockBytes + scheduler.rank_m * kPart;
#pragma unroll 1  // the producer has few registers
    for (int block = run.first; block < run.end; ++block) {
      uint8_t* target = smem.codes[stage_idx][block] + scheduler.rank_m * kPart;
      if constexpr (Config::kClusterM == 1) {
        bulk_load(target, source, kPart, &smem.full[stage_idx], weight_policy());
      } else {
        uint16_t mask = 0;
#pragma unroll
        for (int peer = 0; peer < Config::kClusterM; ++peer) mask |= 1u << rank(scheduler.rank_n, peer);
        bulk_load_multicast(target, source, kPart, &smem.full[stage_idx], mask, weight_policy());
      }
      source += params.b_row_bytes;
    }
  }

  // All groups of the stage at once; past the last group and column the copy engine writes zeros.
  __device__ __forceinline__ void load_groups(const Tile& tile, int k_block, uint32_t stage_idx) const {
    const int row = first_group_row<Config>(params, k_block);
    cute::SM90_TMA_LOAD_2D::copy(&params.scales_map, &smem.full[stage_idx], weight_policy(),
                                 smem.scales[stage_idx], tile.n, row);
    if constexpr (kHasZeros<Config>) {
      cute::SM90_TMA_LOAD_2D::copy(&params.zeros_map, &smem.full[stage_idx], weight_policy(),
                                   smem.zeros[stage_idx], tile.n, row);
    }
  }

  // CTAs of the cluster along n share the activations: each brings a slice of the tokens to all of them.
  __device__ __forceinline__ void load_activations(const TileScheduler<Config>& scheduler, const Tile& tile,
                                                   int k_block, uint32_t stage_idx) const {
    constexpr int kTokens = Config::kTileM / Config::kClusterN;
    const int token = tile.m + scheduler.rank_n * kTokens;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint8_t* target = smem.activations[stage_idx][half] + scheduler.rank_n * kTokens * kSwizzleBytes;
      const int k = k_block * kBlockK + half * (kBlockK / 2);
      if constexpr (Config::kClusterN == 1) {
        cute::SM90_TMA_LOAD_2D::copy(&map_for(tokens(tile)), &smem.full[stage_idx], activation_policy(),
                                     target, k, token);
      } else {
        uint16_t mask = ((1u << Config::kClusterN) - 1) << rank(0, scheduler.rank_m);
        cute::SM90_TMA_LOAD_MULTICAST_2D::copy(&params.a_map, &smem.full[stage_idx], mask,
                                               activation_policy(), target, k, token);
      }
    }
  }

  // Rank in the cluster of the CTA at (rank_n, rank_m).
  __device__ __forceinline__ static int rank(int rank_n, int rank_m) {
    return rank_n + Config::kClusterN * rank_m;
  }
};

}  // namespace w4a16
