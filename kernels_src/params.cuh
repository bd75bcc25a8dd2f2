// What a launch passes in, what a CTA keeps in shared memory, and who arrives at which barrier.
#pragma once

#include <cuda/std/cstdint>

#include "cutlass/arch/barrier.h"
#include "numeric.cuh"

namespace w4a16 {

inline constexpr int kBlockN = 64;         // columns of one packed block: one wgmma's m64
inline constexpr int kBlockK = 128;        // k of one packed block, and of one pipeline stage
inline constexpr int kBlockBytes = 4096;   // its codes
inline constexpr int kSwizzleBytes = 128;  // one row of a 128-byte swizzled shared-memory tile
inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroupWarps = 4;

struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// Plain data, filled by cupy_w4a16/_launch.py; the field order is the same there.
struct alignas(64) Params {
  TensorMap a_map;          // (m, k), k fastest; box: kTileM / cluster_n tokens x 64 k, 128-byte swizzle
  TensorMap a_tail_map;     // the same; box: the tokens of the last tile, where they are fewer
  TensorMap out_map;        // (m, n), n fastest; box: kStoreTokens tokens x 128 bytes, 128-byte swizzle
  TensorMap scales_map;     // (num_groups, n), n fastest; box: groups of a stage x kStageN
  TensorMap zeros_map;      // the same
  const uint8_t* a;         // (m, k), rows of a_row_bytes: for kernels without tensor maps
  const uint8_t* b_packed;  // (ceil(n / 64), ceil(k / 128)) blocks
  const void* scales;       // (num_groups, n)
  const void* zeros;        // (num_groups, n)
  const void* bias;         // (n) or null
  const uint32_t* normalised_by;  // (n) bfloat16, in whole pairs: powers of two for sums; or null
  void* out;                      // (m, n)
  int64_t a_row_bytes;
  int64_t b_row_bytes;    // from one row of blocks to the next
  int64_t scales_stride;  // elements from one group to the next
  int64_t zeros_stride;
  int64_t out_stride;  // elements from one token to the next
  int32_t m;
  int32_t n;
  int32_t k;
  int32_t num_groups;
  int32_t group_shift;  // group of k: k >> group_shift, for groups of 128 and more
  float alpha;
  int32_t aligned_groups;  // scales and zeros begin and end their rows at multiples of 16 bytes
  int32_t out_aligned;     // out and its rows begin and end at multiples of 16 bytes
};

// Groups of scales that one stage brings, and the k each covers inside the stage.
template <class Config>
inline constexpr int kStageGroups = Config::kGroupSize < kBlockK ? kBlockK / Config::kGroupSize : 1;

template <class Config>
inline constexpr bool kNormalised = kSame<typename Config::Zero, NoZerosNormalised>;
template <class Config>
inline constexpr bool kHasZeros =
    kIsIntegerZero<typename Config::Zero> || kIsFloatZero<typename Config::Zero>;

// Pingpong's two warpgroups take turns at whole tiles; otherwise warpgroups share the tile's columns, and may share its k.
template <class Config>
inline constexpr int kConsumerWarpgroups =
    Config::kPingpong ? 2 : Config::kWarpgroupsN * Config::kSplitWarpgroups;

// With a tile of half a block more, a pair of CTAs (a cluster of two) takes 2 x kTileN columns: k of the block between
// their tiles is split over both, and no other.
template <class Config>
inline constexpr bool kSharesBlock = Config::kTileN % kBlockN != 0;

// Columns of a stage: whole blocks.
template <class Config>
inline constexpr int kStageN = (Config::kTileN + kBlockN - 1) / kBlockN * kBlockN;

// m64 blocks of weights that one consumer warpgroup multiplies; how many of them, the last ones, others add to.
template <class Config>
inline constexpr int kWarpgroupBlocks = kStageN<Config> / kBlockN / Config::kWarpgroupsN;
template <class Config>
inline constexpr int kSplitBlocks = kSharesBlock<Config> ? 1 : kWarpgroupBlocks<Config>;

// Where a warpgroup's blocks lie in the stage: in a row, and mirrored in the second CTA of a pair, so that the shared
// block is the last warpgroup's last one in both.
template <class Config>
struct Places {
  int first, step;

  __device__ __forceinline__ int operator()(int block) const {
    return first + (kSharesBlock<Config> ? step * block : block);
  }
};

template <class Config>
inline constexpr int kThreads = (kConsumerWarpgroups<Config> + 1) * kWarpgroupThreads;

// CTAs that share operands by multicast, and all CTAs of a cluster.
template <class Config>
inline constexpr int kSharers = Config::kClusterN * Config::kClusterM;
template <class Config>
inline constexpr int kClusterSize = kSharers<Config> * Config::kSplitCluster;

// Lanes of a warp that say it has read a stage. One is enough; but racecheck takes an arrival for its own thread's only
// (tests/helpers/racecheck.py), so tests/helpers/sanitize.py can have every lane arrive, each at every peer.
#ifdef W4A16_EVERY_LANE_ARRIVES
inline constexpr int kReleaseLanes = 32;
#else
inline constexpr int kReleaseLanes = 1;
#endif

// Contributors to one result along k: warpgroups of a CTA x CTAs of a cluster.
template <class Config>
inline constexpr int kSplits = Config::kSplitWarpgroups * Config::kSplitCluster;

// A unit is two neighbouring columns of one token: what a thread stores at once. Units of a split block that one
// contributor ends up with.
template <class Config>
inline constexpr int kUnits = Config::kTileM / 4 / kSplits<Config>;

// What the other contributors leave for one warpgroup to add up.
template <class Config>
inline constexpr int kPartialBytes = (kSplits<Config> - 1) * kSplitBlocks<Config> * kUnits<Config> * 2 *
                                     int(sizeof(float)) * kWarpgroupThreads;

// Warpgroups that receive them.
template <class Config>
inline constexpr int kReceivers = kSharesBlock<Config> ? 1 : kConsumerWarpgroups<Config>;

// Results go through staging buffers and TMA, or straight from registers where there are few.
template <class Config>
inline constexpr bool kStaged = Config::kStoreTokens > 0;

// Bytes of one staged slab: kStoreTokens rows of 128 bytes.
template <class Config>
inline constexpr int kSlabBytes = Config::kStoreTokens * kSwizzleBytes;

// 128-byte slabs that the 64 columns of a block fill: one for 16-bit results, two for float32.
template <class Config>
inline constexpr int kBlockSlabs = kBlockN * int(sizeof(typename Config::Out::Storage)) / kSwizzleBytes;

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
  // Codes, [block][m16 tile][half of k][lane][step], in fragment order: wgmma's A operand after dequantisation.
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

// Row of `scales` for the first group of the 128 k at block `k_block`.
template <class Config>
__device__ __forceinline__ int first_group_row(const Params& params, int k_block) {
  return Config::kGroupSize < kBlockK ? k_block * kStageGroups<Config>
                                      : int((int64_t(k_block) * kBlockK) >> params.group_shift);
}

// The same for each of its groups. Groups past the end belong to padding, where activations are 0 and codes 8:
// the last row's scales serve. Where scales multiply weights, (8 - zero) * scale must be finite in the dtype, as it
// always is with zeros from 0 to 16 and, in float16, magnitudes of scales up to 65504 / 8.
template <class Config>
__device__ __forceinline__ int group_row(const Params& params, int k_block, int group) {
  return min(first_group_row<Config>(params, k_block) + group, params.num_groups - 1);
}

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

using Barrier = cutlass::arch::ClusterTransactionBarrier;

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace w4a16
