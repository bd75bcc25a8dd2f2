// What follows from a configuration of gemm.cuh: who shares what with whom, and how many of everything.
#pragma once

#include "params.cuh"

namespace w4a16 {

inline constexpr int kSwizzleBytes = 128;  // one row of a 128-byte swizzled shared-memory tile
inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroupWarps = 4;

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

}  // namespace w4a16
