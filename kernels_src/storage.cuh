// What a CTA of gemm.cuh keeps in shared memory, who arrives at which barrier, and a place in the ring of stages.
#pragma once

#include "cutlass/arch/barrier.h"
#include "shape.cuh"

namespace w4a16 {

using Barrier = cutlass::arch::ClusterTransactionBarrier;

// Lanes of a warp that say it has read a stage. One is enough; but racecheck takes an arrival for its own thread's only
// (tests/helpers/racecheck.py), so tests/helpers/sanitize.py can have every lane arrive, each at every peer.
#ifdef W4A16_EVERY_LANE_ARRIVES
inline constexpr int kReleaseLanes = 32;
#else
inline constexpr int kReleaseLanes = 1;
#endif

template <class Config>
struct SharedStorage {
  using Scale = typename Config::Element::Storage;
  using Zero = typename Config::Zero::Storage;
  static constexpr int kBlocks = kStageN<Config> / kBlockN;
  static constexpr int kGroups = kStageGroups<Config>;
  static constexpr int kZeroBytes = (kGroups * kStageN<Config> * int(sizeof(Zero)) + 127) / 128 * 128;

  // Activations, [half of k][token][64 k], 128-byte swizzle: the B operand of wgmma.
  alignas(1024) uint8_t activations[Config::kStages][2][Config::kTileM * kSwizzleBytes];
  // Results on their way out, [warpgroup][buffer][slab][token][128 bytes], 128-byte swizzle.
  alignas(1024) uint8_t
      results[kStaged<Config> ? kConsumerWarpgroups<Config> : 1][kStaged<Config> ? Config::kStoreBuffers : 1]
             [kBlockSlabs<Config>][kStaged<Config> ? kSlabBytes<Config> : 16];
  // Partial sums from the other contributors along k, [warpgroup][contributor][unit pair][thread].
  alignas(128) uint8_t partials[kReceivers<Config>][kSplits<Config> > 1 ? kPartialBytes<Config> : 16];
  // Codes, [block][m16 tile][half of k][lane][step], in fragment order: wgmma's A operand after dequantization.
  alignas(128) uint8_t codes[Config::kStages][kBlocks][kBlockBytes];
  // Scales and zeros, [group][column]; the copy engine wants stages at multiples of 128 bytes.
  alignas(128) Scale scales[Config::kStages][kGroups][kStageN<Config>];
  alignas(128) uint8_t zeros[kHasZeros<Config> ? Config::kStages : 1][kHasZeros<Config> ? kZeroBytes : 16];

  __device__ __forceinline__ Zero* zeros_of(uint32_t stage_idx, int group) {
    return reinterpret_cast<Zero*>(zeros[stage_idx]) + group * kStageN<Config>;
  }

  // full: the producer's copies have landed. empty: every consumer warp that reads the stage has let it go.
  alignas(8) uint64_t full[Config::kStages];
  alignas(8) uint64_t empty[Config::kStages];
  // reduced: all partial sums for this warpgroup have arrived.
  alignas(8) uint64_t reduced[kReceivers<Config>];
};

// Named barriers of the CTA, by the numbers that CUTLASS's sync() and arrive() take: 0 to 7, to which they add the 8
// that CUTLASS keeps for itself.
enum class NamedBarrier : uint32_t {
  kFirstWarpgroup = 1,  // + warpgroup: the consumers of one warpgroup, around the staging of results
  kFirstTurn = 5,       // + warpgroup: pingpong's turn at the ring of stages
};

// Position in the ring of stages.
template <int kStages>
struct PipelineState {
  uint32_t stage_idx = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void advance() {
    if (++stage_idx == kStages) {
      stage_idx = 0;
      phase ^= 1;
    }
  }
  __device__ __forceinline__ void advance(uint32_t count) {
    uint32_t target = stage_idx + count;
    phase ^= (target / kStages) & 1;
    stage_idx = target % kStages;
  }
};

}  // namespace w4a16
