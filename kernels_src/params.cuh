// What a launch passes in: the parameter block, where in it the scales of a block of k stand, and what a Config of
// either family says of them.
#pragma once

#include <cuda/std/cstdint>

#include "numeric.cuh"

namespace w4a16 {

inline constexpr int kBlockN = 64;        // columns of one packed block: one wgmma's m64
inline constexpr int kBlockK = 128;       // k of one packed block, and of one pipeline stage
inline constexpr int kBlockBytes = 4096;  // its codes
inline constexpr int kTileBytes = 1024;   // those of 16 columns, a warp's m16 tile: 64 k, then the other 64

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

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

// Groups of scales that one stage brings.
template <class Config>
inline constexpr int kStageGroups = Config::kGroupSize < kBlockK ? kBlockK / Config::kGroupSize : 1;

template <class Config>
inline constexpr bool kNormalised = cuda::std::is_same_v<typename Config::Zero, NoZerosNormalised>;
template <class Config>
inline constexpr bool kHasZeros =
    kIsIntegerZero<typename Config::Zero> || kIsFloatZero<typename Config::Zero>;

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

}  // namespace w4a16
