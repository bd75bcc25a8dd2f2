// The main loop of one consumer warpgroup: weights from shared memory through registers into wgmma.
//
// A stage is eight steps of 16 k, taken in batches of one, two (many tokens) or four (few). While the tensor cores work
// on batch b, the warps dequantize batch b + 1 into the other fragment buffer, which batch b - 1 has let go. Codes and
// scales come from shared memory half a stage (64 k) ahead and at a time; with batches of four a whole stage at a
// time, from the middle of the stage before. With batches of one:
//
//            step 0   1   2   3   4   5   6   7 | 0   1 ...
//   wgmma         w0  w1  w2  w3  w4  w5  w6  w7| w0
//   dequantize    d1  d2  d3  d4  d5  d6  d7  d0'          ' of the next stage
//   load          half 1          half 0'
//   release       the stage before
//
// Scales multiply the weights, or, with kScaleAccumulators, the float32 sums of each half: the tensor cores then see
// q - zero, no product with a scale is rounded, and dequantization is shorter; it pays where tokens are few.
#pragma once

#include "dequant.cuh"
#include "storage.cuh"
#include "wgmma.cuh"

namespace w4a16 {

// The blocks beyond `kActiveBlocks` of the warpgroup's are left out.
template <class Config, int kActiveBlocks = kWarpgroupBlocks<Config>>
struct Mainloop {
  using Element = typename Config::Element;
  using Zero = typename Config::Zero;
  using Storage = SharedStorage<Config>;
  using Mma = Wgmma<Element, Config::kTileM>;
  using Fragment = typename Mma::Fragment;
  using State = PipelineState<Config::kStages>;

  static constexpr int kBlocks = kActiveBlocks;
  static constexpr int kSteps = kBlockK / 16;
  static constexpr int kHalfSteps = kSteps / 2;
  static constexpr int kBatchSteps = Config::kBatchSteps;
  static constexpr int kBatches = kSteps / kBatchSteps;
  static constexpr int kHalfGroups = Config::kGroupSize < 64 ? 64 / Config::kGroupSize : 1;
  static constexpr int kStride = Config::kSplitWarpgroups;  // of the stages that this warpgroup takes
  static constexpr bool kScaleAccumulators = Config::kScaleAccumulators;
  static_assert(!kScaleAccumulators || (kBatchSteps == kHalfSteps && kHalfGroups == 1),
                "a batch has one scale");

  // What a thread holds of 64 k: its words, one for each k16 step, and its scales.
  struct HalfStage {
    uint4 words[kBlocks];
    GroupScale<Element, Zero> groups[kHalfGroups][kBlocks];
  };

  // Everything in flight between batches, in registers.
  struct Registers {
    HalfStage halves[2];
    Fragment fragments[2][kBatchSteps][kBlocks];
    Accumulators<Config::kTileM> sums[kBlocks];  // of the batch in flight, unscaled
    uint32_t sum_scales[kBlocks];                // what they will be multiplied by
  };

  Storage& smem;
  const Places<Config> places;  // of this warpgroup's blocks in a stage
  const int warp;               // in the warpgroup: the m16 tile of each block
  const int lane;

  __device__ __forceinline__ Mainloop(Storage& smem, const Places<Config>& places)
      : smem(smem), places(places), warp(threadIdx.x / 32 % kWarpgroupWarps), lane(threadIdx.x % 32) {}

  // accum = weights x activations over every kSplitWarpgroups-th of `k_blocks` stages from `turn` on; leaves `state`
  // behind all of them.
  __device__ __forceinline__ void run(Accum<Config>& accum, State& state, int k_blocks, int turn) const {
    clear(accum);
    add(accum, state, k_blocks, turn);
  }

  // The same, where the pair's second half of k begins at `middle`. The last block of the warpgroup that `splits` one
  // is left out in the peer's half.
  __device__ __forceinline__ void run_sharing(Accum<Config>& accum, State& state, int k_blocks, int middle,
                                              bool splits, int our_half) const {
    const Mainloop<Config, kBlocks - 1> without_shared(smem, places);
    clear(accum);
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int count = half == 0 ? middle : k_blocks - middle;
      if (!splits || half == our_half) {
        add(accum, state, count, 0);
      } else {
        without_shared.add(accum, state, count, 0);
      }
    }
  }

  // accum += ..., as in run().
  __device__ __forceinline__ void add(Accum<Config>& accum, State& state, int k_blocks, int turn) const {
    if constexpr (kBlocks == 0) {
      for (int i = 0; i < k_blocks; ++i, state.advance()) {
        Barrier::wait(&smem.full[state.stage_idx], state.phase);
        release(state.stage_idx);
      }
    } else {
      State next_tile = state;
      next_tile.advance(k_blocks);
      state.advance(turn);
      if (turn < k_blocks) multiply_stages(accum, state, k_blocks, turn);
      state = next_tile;
    }
  }

 private:
  __device__ __forceinline__ void multiply_stages(Accum<Config>& accum, State& state, int k_blocks,
                                                  int turn) const {
    Registers registers;
    if constexpr (kScaleAccumulators) clear(registers.sums);
    Barrier::wait(&smem.full[state.stage_idx], state.phase);
    load_half<0>(registers, state.stage_idx);
    if constexpr (kBatchSteps == kHalfSteps) load_half<1>(registers, state.stage_idx);
    dequantize_batch<0>(registers);

    uint32_t previous = 0;
    for (int k_block = turn; k_block < k_blocks; k_block += kStride) {
      Stage stage{state, state, k_block > turn, k_block + kStride < k_blocks, previous};
      stage.next.advance(kStride);
      multiply_stage(accum, registers, stage, cuda::std::make_integer_sequence<int, kBatches>{});
      previous = state.stage_idx;
      state = stage.next;
    }
    if constexpr (!kScaleAccumulators) {
      cute::warpgroup_wait<0>();
      fence(accum);
      release(previous);
    }
  }

  // The stage at work, the one after it and the one before, where they exist.
  struct Stage {
    State state, next;
    bool has_previous, has_next;
    uint32_t previous;
  };

  template <int... kBatch>
  __device__ __forceinline__ void multiply_stage(Accum<Config>& accum, Registers& registers,
                                                 const Stage& stage,
                                                 cuda::std::integer_sequence<int, kBatch...>) const {
    (multiply_batch<kBatch>(accum, registers, stage), ...);
  }

  template <int kBatch>
  __device__ __forceinline__ void multiply_batch(Accum<Config>& accum, Registers& registers,
                                                 const Stage& stage) const {
    constexpr int kStep = kBatch * kBatchSteps;
    issue<kBatch>(accum, registers, stage.state.stage_idx);
    if constexpr (kStep == 0 && kBatchSteps < kHalfSteps) load_half<1>(registers, stage.state.stage_idx);
    if constexpr (kStep == kHalfSteps) {
      if (stage.has_next) {
        Barrier::wait(&smem.full[stage.next.stage_idx], stage.next.phase);
        load_half<0>(registers, stage.next.stage_idx);
        if constexpr (kBatchSteps == kHalfSteps) load_half<1>(registers, stage.next.stage_idx);
      }
    }
    if constexpr (kScaleAccumulators) {
      // No wgmma may be in flight where its sums are read in a loop, or ptxas serialises all of them.
      dequantize_batch<(kBatch + 1) % kBatches>(registers);
      cute::warpgroup_wait<0>();
      fence(registers.sums);
      add_scaled(accum, registers);
      if constexpr (kBatch == kBatches - 1) release(stage.state.stage_idx);
    } else {
      // The batch before is done: its fragments, and before step 0 its stage, are free.
      cute::warpgroup_wait<1>();
      if constexpr (kStep == 0) {
        if (stage.has_previous) release(stage.previous);
      }
      dequantize_batch<(kBatch + 1) % kBatches>(registers);
    }
  }

  template <int kBatch>
  __device__ __forceinline__ void issue(Accum<Config>& accum, Registers& registers,
                                        uint32_t stage_idx) const {
    const uint64_t activations = activation_descriptor(smem.activations[stage_idx][0]);
    if constexpr (kScaleAccumulators) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        registers.sum_scales[block] = registers.halves[kBatch].groups[0][block].scale;
      }
    }
    cute::warpgroup_arrive();
#pragma unroll
    for (int step = 0; step < kBatchSteps; ++step) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        auto& target = kScaleAccumulators ? registers.sums[block] : accum[block];
        Mma::issue(target, registers.fragments[kBatch % 2][step][block],
                   activations + step_offset(kBatch * kBatchSteps + step), !kScaleAccumulators || step > 0);
      }
    }
    cute::warpgroup_commit_batch();
  }

  // In descriptor units of 16 bytes: 32 bytes a step inside a half, then the other half's tile.
  __device__ __forceinline__ static constexpr uint32_t step_offset(int step) {
    return (step / kHalfSteps * Config::kTileM * kSwizzleBytes + step % kHalfSteps * 32) / 16;
  }

  template <int kHalf>
  __device__ __forceinline__ void load_half(Registers& registers, uint32_t stage_idx) const {
    HalfStage& half = registers.halves[kHalf];
    const int column = warp * 16 + lane / 4 * 2;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint8_t* codes = smem.codes[stage_idx][places(block)];
      half.words[block] =
          *reinterpret_cast<const uint4*>(codes + warp * kTileBytes + kHalf * (kTileBytes / 2) + lane * 16);
      const int tile_column = places(block) * kBlockN + column;
#pragma unroll
      for (int group = 0; group < kHalfGroups; ++group) {
        if constexpr (kHalf == 1 && Config::kGroupSize >= kBlockK) {
          half.groups[group][block] = registers.halves[0].groups[group][block];
        } else {
          constexpr int kFirst = Config::kGroupSize >= kBlockK ? 0 : kHalf * kHalfGroups;
          typename Zero::Storage zeros[2] = {};
          if constexpr (kHasZeros<Config>) {
            zeros[0] = smem.zeros_of(stage_idx, kFirst + group)[tile_column];
            zeros[1] = smem.zeros_of(stage_idx, kFirst + group)[tile_column + 1];
          }
          half.groups[group][block] = make_group_scale<Element, Zero>(
              *reinterpret_cast<const uint32_t*>(&smem.scales[stage_idx][kFirst + group][tile_column]),
              zeros);
        }
      }
    }
  }

  template <int kBatch>
  __device__ __forceinline__ static void dequantize_batch(Registers& registers) {
#pragma unroll
    for (int i = 0; i < kBatchSteps; ++i) {
      const int step = kBatch * kBatchSteps + i;
      const int half_step = step % kHalfSteps;
      const HalfStage& half = registers.halves[step / kHalfSteps];
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        dequantize<Element, Zero, !kScaleAccumulators>(
            word_of(half.words[block], half_step), half.groups[half_step * kHalfGroups / kHalfSteps][block],
            registers.fragments[kBatch % 2][i][block]);
      }
    }
  }

  // accum += the batch's sums x its scales.
  __device__ __forceinline__ static void add_scaled(Accum<Config>& accum, const Registers& registers) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint32_t pair = registers.sum_scales[block];
      const float scale[2] = {Element::to_float(uint16_t(pair)), Element::to_float(uint16_t(pair >> 16))};
#pragma unroll
      for (int i = 0; i < Config::kTileM / 2; ++i) {
        accum[block].value[i] += registers.sums[block].value[i] * scale[i / 2 % 2];
      }
    }
  }

  template <int kCount>
  __device__ __forceinline__ static void clear(Accumulators<Config::kTileM> (&accum)[kCount]) {
#pragma unroll
    for (int block = 0; block < kCount; ++block) {
#pragma unroll
      for (float& value : accum[block].value) value = 0.0f;
    }
  }

  // Keeps reads of the accumulators behind the wait for their wgmma.
  template <int kCount>
  __device__ __forceinline__ static void fence(Accumulators<Config::kTileM> (&accum)[kCount]) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (float& value : accum[block].value) cute::warpgroup_fence_operand(value);
    }
  }

  // This warp has read the stage: tells every producer of the cluster that writes into it.
  __device__ __forceinline__ void release(uint32_t stage_idx) const {
    __syncwarp();  // one lane speaks for all
    if constexpr (kSharers<Config> == 1) {
      if (lane < kReleaseLanes) Barrier::arrive(&smem.empty[stage_idx]);
    } else if constexpr (kReleaseLanes == 1) {
      const bool writes = writes_here(lane);
      if (lane < kSharers<Config> && writes) Barrier::arrive(&smem.empty[stage_idx], lane, true);
    } else {
      for (int peer = 0; peer < kSharers<Config>; ++peer) {
        if (writes_here(peer)) Barrier::arrive(&smem.empty[stage_idx], peer, true);
      }
    }
  }

  // Whether this CTA of the cluster multicasts into our stages.
  __device__ __forceinline__ static bool writes_here(int peer) {
    const uint32_t rank = cute::block_rank_in_cluster();
    return peer % Config::kClusterN == rank % Config::kClusterN ||  // shares our codes
           peer / Config::kClusterN == rank / Config::kClusterN;    // shares our activations
  }
};

}  // namespace w4a16
