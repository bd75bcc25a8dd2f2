// From sums to the result: activation(alpha * sum + bias), rounded once.
//
// Sums are the result's transpose: a thread holds units, two neighbouring columns of one token. Where a tile has many
// tokens, a warp writes its units into a staging buffer of [token][128 bytes] with the 128-byte swizzle (no bank
// conflicts: four tokens of eight words each cover all 32 banks), and one thread stores the buffer with TMA, which
// clips at the edges of `out`. Where tokens are few, or `out` is not aligned for TMA, threads store their own units:
// a warp's eight lanes of one token fill one 32-byte sector.
#pragma once

#include "cute/arch/copy_sm90_tma.hpp"
#include "params.cuh"
#include "ptx.cuh"
#include "reduce.cuh"
#include "scheduler.cuh"

namespace w4a16 {

enum class Activation { kNone, kGelu, kGeluTanh, kSilu, kRelu };

template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kActivation == Activation::kGelu) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
  } else if constexpr (kActivation == Activation::kSilu) {
    return x / (1.0f + __expf(-x));
  } else if constexpr (kActivation == Activation::kRelu) {
    return x < 0.0f ? 0.0f : x;  // NaN stays NaN
  } else {
    return x;
  }
}

template <class Config>
struct Epilogue {
  using Element = typename Config::Element;
  using Out = typename Config::Out;
  using OutStorage = typename Out::Storage;
  using Storage = SharedStorage<Config>;
  static constexpr int kBlocks = kWarpgroupBlocks<Config>;
  static constexpr bool kFloatOut = kSame<Out, Float>;
  static constexpr int kSlabColumns = kSwizzleBytes / sizeof(OutStorage);
  using Block = Results<kUnits<Config>>;
  using Share = Block[kBlocks];

  const Params& params;
  Storage& smem;
  const int warpgroup;
  const int first_unit;  // of this contributor's share
  const int warp;        // in the warpgroup
  const int group;       // lane / 4: the pair of columns in the warp's sixteen
  const int quad;        // lane % 4: the pair of tokens in each eight
  uint32_t stores = 0;   // staging buffers filled so far

  __device__ __forceinline__ Epilogue(const Params& params, Storage& smem, int warpgroup, int contributor)
      : params(params),
        smem(smem),
        warpgroup(warpgroup),
        first_unit(contributor * kUnits<Config>),
        warp(threadIdx.x / 32 % kWarpgroupWarps),
        group(threadIdx.x % 32 / 4),
        quad(threadIdx.x % 4) {}

  // `tile.n` is the first column of the warpgroup's first block, `tile.m` the tile's first token.
  __device__ __forceinline__ void run(const Share& share, const Tile& tile) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int block_n = tile.n + block * kBlockN;
      if (block_n >= params.n) break;
      const int column = block_n + warp * 16 + group * 2;
      const float bias[2] = {load_bias(column), load_bias(column + 1)};
      if constexpr (kStaged<Config>) {
        if (params.tma_store) {
#pragma unroll
          for (int chunk = 0; chunk < kResultTokens<Config> / Config::kStoreTokens; ++chunk) {
            store_chunk(share[block], chunk, block_n, tile.m, bias);
          }
          continue;
        }
      }
      store_direct(share[block], column, tile.m, bias);
    }
  }

  // The last stores must have read shared memory before the CTA gives it up.
  __device__ __forceinline__ void finish() const {
    if (kStaged<Config> && leader()) cute::tma_store_wait<0>();
  }

 private:
  __device__ __forceinline__ bool leader() const { return threadIdx.x % kWarpgroupThreads == 0; }

  __device__ __forceinline__ float load_bias(int column) const {
    if (params.bias == nullptr || column >= params.n) return 0.0f;
    return Element::to_float(static_cast<const typename Element::Storage*>(params.bias)[column]);
  }

  __device__ __forceinline__ float finish_value(float sum, float bias) const {
    return activate<Config::kActivation>(params.alpha * sum + bias);
  }

  __device__ __forceinline__ void sync_warpgroup() const {
    cutlass::arch::NamedBarrier::sync(kWarpgroupThreads, uint32_t(NamedBarrier::kFirstWarpgroup) + warpgroup);
  }

  __device__ __forceinline__ void store_chunk(const Block& results, int chunk, int block_n, int tile_m,
                                              const float (&bias)[2]) {
    const int token = tile_m + first_unit * 4 + chunk * Config::kStoreTokens;
    if (token >= params.m) return;
    const uint32_t buffer = stores++ % Config::kStoreBuffers;
    auto& slabs = smem.results[warpgroup][buffer];
    if (leader()) cute::tma_store_wait<Config::kStoreBuffers - 1>();
    sync_warpgroup();  // the buffer's last store has read it
    stage(results, chunk, slabs, bias);
    cute::tma_store_fence();
    sync_warpgroup();
    if (leader()) {
#pragma unroll
      for (int slab = 0; slab < kBlockSlabs<Config>; ++slab) {
        cute::SM90_TMA_STORE_2D::copy(&params.out_map, slabs[slab], block_n + slab * kSlabColumns, token);
      }
      cute::tma_store_arrive();
    }
  }

  template <class Slabs>
  __device__ __forceinline__ void stage(const Block& results, int chunk, Slabs& slabs, const float (&bias)[2]) const {
    const int column_bytes = (warp * 16 + group * 2) * int(sizeof(OutStorage));
    const int piece = column_bytes % kSwizzleBytes / 16;
    uint8_t* slab = slabs[column_bytes / kSwizzleBytes] + column_bytes % 16;
#pragma unroll
    for (int i = 0; i < Config::kStoreTokens / 4; ++i) {
      const int unit = chunk * (Config::kStoreTokens / 4) + i;
      const int row = quad * 2 + i % 2;  // of the swizzle's eight rows
      store_pair(slab + (i / 2 * 8 + row) * kSwizzleBytes + ((piece ^ row) * 16),
                 finish_value(results.low[unit], bias[0]), finish_value(results.high[unit], bias[1]));
    }
  }

  __device__ __forceinline__ void store_direct(const Block& results, int column, int tile_m,
                                               const float (&bias)[2]) const {
    if (column >= params.n) return;
    OutStorage* out = static_cast<OutStorage*>(params.out) + column;
#pragma unroll
    for (int i = 0; i < kUnits<Config>; ++i) {
      const int unit = first_unit + i;
      const int token = tile_m + unit / 2 * 8 + quad * 2 + unit % 2;
      if (token >= params.m) continue;
      OutStorage* pair = out + int64_t(token) * params.out_stride;
      const float low = finish_value(results.low[i], bias[0]);
      const float high = finish_value(results.high[i], bias[1]);
      if (params.tma_store) {  // so n is even, and pairs are aligned
        store_pair(pair, low, high);
      } else {
        store_one(pair, low);
        if (column + 1 < params.n) store_one(pair + 1, high);
      }
    }
  }

  __device__ __forceinline__ static void store_pair(void* target, float low, float high) {
    if constexpr (kFloatOut) {
      *static_cast<float2*>(target) = make_float2(low, high);
    } else {
      *static_cast<uint32_t*>(target) = Out::pack(low, high);
    }
  }

  __device__ __forceinline__ static void store_one(OutStorage* target, float value) {
    if constexpr (kFloatOut) {
      *target = value;
    } else {
      *target = OutStorage(Out::pack(value, 0.0f));
    }
  }
};

}  // namespace w4a16
