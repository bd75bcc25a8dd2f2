// The main loop of one consumer warpgroup: weights from shared memory through registers into wgmma.
//
// One step is 16 k. While the tensor cores work on step u, the warps dequantise step u + 1 into the other fragment
// buffer, which wgmma u - 1 has let go. Codes and scales come from shared memory half a stage (64 k) ahead.
//
//            step 0   1   2   3   4   5   6   7 | 0   1 ...
//   wgmma         w0  w1  w2  w3  w4  w5  w6  w7| w0
//   dequantise    d1  d2  d3  d4  d5  d6  d7  d0'          ' of the next stage
//   load          half 1          half 0'
//   release       the stage before
#pragma once

#include "dequant.cuh"
#include "params.cuh"
#include "wgmma.cuh"

namespace w4a16 {

template <class Config>
struct Mainloop {
  using Element = typename Config::Element;
  using Zero = typename Config::Zero;
  using Storage = SharedStorage<Config>;
  using Mma = Wgmma<Element, Config::kTileM>;
  using Fragment = typename Mma::Fragment;
  using State = PipelineState<Config::kStages>;

  static constexpr int kBlocks = kWarpgroupBlocks<Config>;
  static constexpr int kHalfSteps = 4;
  static constexpr int kSteps = 8;
  static constexpr int kHalfGroups = Config::kGroupSize < 64 ? 64 / Config::kGroupSize : 1;

  using Accum = Accumulators<Config::kTileM>[kBlocks];

  // What a thread holds of 64 k: its words, one for each k16 step, and its scales.
  struct HalfStage {
    uint4 words[kBlocks];
    GroupScale<Element, Zero> groups[kHalfGroups][kBlocks];
  };

  Storage& smem;
  const int first_block;  // of the tile's m64 blocks, the first that this warpgroup multiplies
  const int warp;         // in the warpgroup: the m16 tile of each block
  const int lane;

  __device__ __forceinline__ Mainloop(Storage& smem, int first_block)
      : smem(smem),
        first_block(first_block),
        warp(threadIdx.x / 32 % kWarpgroupWarps),
        lane(threadIdx.x % 32) {}

  // accum = weights x activations over `k_blocks` stages from `state` on; leaves `state` behind them.
  __device__ __forceinline__ void run(Accum& accum, State& state, int k_blocks) const {
    clear(accum);
    if (k_blocks == 0) return;

    HalfStage halves[2];
    Fragment fragments[2][kBlocks];
    Barrier::wait(&smem.full[state.stage_idx], state.phase);
    load_half<0>(halves, state.stage_idx);
    dequantize_step<0>(fragments[0], halves);

    for (int k_block = 0; k_block < k_blocks; ++k_block) {
      State next = state;
      next.advance();
      const uint64_t activations = activation_descriptor(smem.activations[state.stage_idx][0]);
      steps(accum, fragments, halves, activations, state, next, k_block, k_blocks,
            cuda::std::make_integer_sequence<int, kSteps>{});
      state = next;
    }
    cute::warpgroup_wait<0>();
    fence(accum);
    release((state.stage_idx + Config::kStages - 1) % Config::kStages);
  }

 private:
  template <int... kStep>
  __device__ __forceinline__ void steps(Accum& accum, Fragment (&fragments)[2][kBlocks], HalfStage (&halves)[2],
                                        uint64_t activations, const State& state, const State& next, int k_block,
                                        int k_blocks, cuda::std::integer_sequence<int, kStep...>) const {
    (step<kStep>(accum, fragments, halves, activations, state, next, k_block, k_blocks), ...);
  }

  template <int kStep>
  __device__ __forceinline__ void step(Accum& accum, Fragment (&fragments)[2][kBlocks], HalfStage (&halves)[2],
                                       uint64_t activations, const State& state, const State& next, int k_block,
                                       int k_blocks) const {
    multiply(accum, fragments[kStep % 2], activations + step_offset(kStep));
    if constexpr (kStep == 0) load_half<1>(halves, state.stage_idx);
    if constexpr (kStep == kHalfSteps) {
      if (k_block + 1 < k_blocks) {
        Barrier::wait(&smem.full[next.stage_idx], next.phase);
        load_half<0>(halves, next.stage_idx);
      }
    }
    cute::warpgroup_wait<1>();  // the step before is done: its fragments, and before step 0 its stage, are free
    if constexpr (kStep == 0) {
      if (k_block > 0) release((state.stage_idx + Config::kStages - 1) % Config::kStages);
    }
    dequantize_step<(kStep + 1) % kSteps>(fragments[(kStep + 1) % 2], halves);
  }

  __device__ __forceinline__ static void multiply(Accum& accum, const Fragment (&fragments)[kBlocks],
                                                  uint64_t activations) {
    cute::warpgroup_arrive();
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) Mma::issue(accum[block], fragments[block], activations);
    cute::warpgroup_commit_batch();
  }

  // In descriptor units of 16 bytes: 32 bytes a step inside a half, then the other half's tile.
  __device__ __forceinline__ static constexpr uint32_t step_offset(int step) {
    return (step / kHalfSteps * Config::kTileM * kSwizzleBytes + step % kHalfSteps * 32) / 16;
  }

  template <int kHalf>
  __device__ __forceinline__ void load_half(HalfStage (&halves)[2], uint32_t stage_idx) const {
    HalfStage& half = halves[kHalf];
    const int column = warp * 16 + lane / 4 * 2;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint8_t* codes = smem.codes[stage_idx][first_block + block];
      half.words[block] = *reinterpret_cast<const uint4*>(codes + (warp * 2 + kHalf) * 512 + lane * 16);
      const int tile_column = (first_block + block) * kBlockN + column;
#pragma unroll
      for (int group = 0; group < kHalfGroups; ++group) {
        if constexpr (kHalf == 1 && Config::kGroupSize >= kBlockK) {
          half.groups[group][block] = halves[0].groups[group][block];
        } else {
          constexpr int kFirst = Config::kGroupSize >= kBlockK ? 0 : kHalf * kHalfGroups;
          half.groups[group][block] = load_group_scale<Element, Zero>(
              &smem.scales[stage_idx][kFirst + group][tile_column],
              kHasZeros<Config> ? &smem.zeros[stage_idx][kFirst + group][tile_column] : nullptr);
        }
      }
    }
  }

  template <int kStep>
  __device__ __forceinline__ static void dequantize_step(Fragment (&fragments)[kBlocks],
                                                         const HalfStage (&halves)[2]) {
    constexpr int kWord = kStep % kHalfSteps;
    constexpr int kGroup = kWord * kHalfGroups / kHalfSteps;
    const HalfStage& half = halves[kStep / kHalfSteps];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint4& words = half.words[block];
      const uint32_t word = kWord == 0 ? words.x : kWord == 1 ? words.y : kWord == 2 ? words.z : words.w;
      dequantize<Element, Zero>(word, half.groups[kGroup][block], fragments[block]);
    }
  }

  __device__ __forceinline__ static void clear(Accum& accum) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (float& value : accum[block].value) value = 0.0f;
    }
  }

  // Keeps reads of the accumulators behind the wait for the last wgmma.
  __device__ __forceinline__ static void fence(Accum& accum) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (float& value : accum[block].value) cute::warpgroup_fence_operand(value);
    }
  }

  // This warp has read the stage: tells every producer of the cluster that writes into it.
  __device__ __forceinline__ void release(uint32_t stage_idx) const {
    if constexpr (kClusterSize<Config> == 1) {
      if (lane == 0) Barrier::arrive(&smem.empty[stage_idx]);
    } else {
      const uint32_t rank = cute::block_rank_in_cluster();
      const bool writes = lane % Config::kClusterN == rank % Config::kClusterN ||  // shares our codes
                          lane / Config::kClusterN == rank / Config::kClusterN;    // shares our activations
      if (lane < kClusterSize<Config> && writes) Barrier::arrive(&smem.empty[stage_idx], lane, true);
    }
  }
};

}  // namespace w4a16
