// wgmma m64nNk16 with weights from registers (A) and activations from shared memory (B, K-major, 128-byte swizzle),
// and which results its accumulators hold.
#pragma once

#include <cuda/std/utility>

#include "cute/arch/mma_sm90_gmma.hpp"
#include "numeric.cuh"
#include "shape.cuh"

namespace w4a16 {

template <class Element, int kTokens>
struct WgmmaAtom;

#define W4A16_WGMMA_ATOM(kTokens)                                                            \
  template <>                                                                                \
  struct WgmmaAtom<Half, kTokens>                                                            \
      : cute::SM90::GMMA::MMA_64x##kTokens##x16_F32F16F16_RS<cute::SM90::GMMA::Major::K,     \
                                                             cute::SM90::GMMA::Major::K> {}; \
  template <>                                                                                \
  struct WgmmaAtom<Bfloat16, kTokens>                                                        \
      : cute::SM90::GMMA::MMA_64x##kTokens##x16_F32BF16BF16_RS<cute::SM90::GMMA::Major::K,   \
                                                               cute::SM90::GMMA::Major::K> {};
W4A16_WGMMA_ATOM(8)
W4A16_WGMMA_ATOM(16)
W4A16_WGMMA_ATOM(32)
W4A16_WGMMA_ATOM(64)
W4A16_WGMMA_ATOM(96)
W4A16_WGMMA_ATOM(128)
W4A16_WGMMA_ATOM(192)
W4A16_WGMMA_ATOM(256)
#undef W4A16_WGMMA_ATOM

// Accumulators of one warpgroup for 64 columns (weights) and kTokens tokens: four for every eight tokens.
// Thread (warp w, lane 4 g + c), i = 4 j + 2 p + q: column 16 w + 2 g + p, token 8 j + 2 c + q.
template <int kTokens>
struct Accumulators {
  float value[kTokens / 2];
};

// Accumulators of one warpgroup for all its blocks.
template <class Config>
using Accum = Accumulators<Config::kTileM>[kWarpgroupBlocks<Config>];

// A warpgroup's share of the results of one block, or all of them: `kUnits` units of a token's two neighbouring columns.
// Unit u of thread (warp w, lane 4 g + c): columns 16 w + 2 g (low) and + 1 (high), token 8 (u / 2) + 2 c + u % 2.
template <int kUnits>
struct Results {
  float low[kUnits];
  float high[kUnits];
};

template <int kTokens>
__device__ __forceinline__ float low(const Accumulators<kTokens>& accum, int unit) {
  return accum.value[unit / 2 * 4 + unit % 2];
}
template <int kTokens>
__device__ __forceinline__ float high(const Accumulators<kTokens>& accum, int unit) {
  return accum.value[unit / 2 * 4 + 2 + unit % 2];
}

// All results of a block that nobody else has summed.
template <int kTokens>
__device__ __forceinline__ Results<kTokens / 4> whole(const Accumulators<kTokens>& accum) {
  Results<kTokens / 4> results;
#pragma unroll
  for (int unit = 0; unit < kTokens / 4; ++unit) {
    results.low[unit] = low(accum, unit);
    results.high[unit] = high(accum, unit);
  }
  return results;
}

template <class Element, int kTokens>
struct Wgmma {
  using Fragment = uint32_t[4];

  // accum = weights x activations, or += where `add`.
  __device__ __forceinline__ static void issue(Accumulators<kTokens>& accum, const Fragment& weights,
                                               uint64_t activations, bool add) {
    expand(accum, weights, activations, add, cuda::std::make_index_sequence<kTokens / 2>{});
  }

 private:
  template <size_t... I>
  __device__ __forceinline__ static void expand(Accumulators<kTokens>& accum, const Fragment& weights,
                                                uint64_t activations, bool add,
                                                cuda::std::index_sequence<I...>) {
    using cute::SM90::GMMA::ScaleOut;
    WgmmaAtom<Element, kTokens>::fma(weights[0], weights[1], weights[2], weights[3], activations,
                                     accum.value[I]..., add ? ScaleOut::One : ScaleOut::Zero);
  }
};

// Shared-memory descriptor of a K-major tile with 128-byte rows: swizzle mode 1, 1024 bytes from one group of eight
// rows to the next. A k16 step is 32 bytes further; addresses count in units of 16 bytes.
__device__ __forceinline__ uint64_t activation_descriptor(const void* smem) {
  constexpr uint64_t kSwizzle128 = uint64_t(1) << 62;
  constexpr uint64_t kRowGroup = uint64_t(1024 >> 4) << 32;
  constexpr uint64_t kLeading = uint64_t(1) << 16;
  return kSwizzle128 | kRowGroup | kLeading | ((cute::cast_smem_ptr_to_uint(smem) & 0x3FFFF) >> 4);
}

}  // namespace w4a16
