// From accumulators to the result: activation(alpha * accum + bias), rounded once, through shared memory and TMA.
//
// The accumulators are the result's transpose: a thread holds pairs of neighbouring columns of one token. A warp
// writes them into a staging buffer of [token][128 bytes] with the 128-byte swizzle (no bank conflicts: four tokens
// of eight words each cover all 32 banks), and one thread stores the buffer with TMA, which clips at the edges of
// `out`. Where `out` is not aligned for TMA, threads store their own pairs.
#pragma once

#include "cute/arch/copy_sm90_tma.hpp"
#include "params.cuh"
#include "scheduler.cuh"
#include "wgmma.cuh"

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
  static constexpr int kChunks = Config::kTileM / Config::kStoreTokens;
  using Accum = Accumulators<Config::kTileM>[kBlocks];

  const Params& params;
  Storage& smem;
  const int warpgroup;
  const int warp;  // in the warpgroup
  const int group;  // lane / 4: the pair of columns in the warp's sixteen
  const int quad;   // lane % 4: the pair of tokens in each eight
  uint32_t stores = 0;  // staging buffers filled so far

  __device__ __forceinline__ Epilogue(const Params& params, Storage& smem, int warpgroup)
      : params(params),
        smem(smem),
        warpgroup(warpgroup),
        warp(threadIdx.x / 32 % kWarpgroupWarps),
        group(threadIdx.x % 32 / 4),
        quad(threadIdx.x % 4) {}

  // `tile.n` is the first column of the warpgroup's first block.
  __device__ __forceinline__ void run(const Accum& accum, const Tile& tile) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int block_n = tile.n + block * kBlockN;
      if (block_n >= params.n) break;
      const int column = block_n + warp * 16 + group * 2;
      const float bias[2] = {load_bias(column), load_bias(column + 1)};
      if (params.tma_store) {
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) store_chunk(accum[block], chunk, block_n, tile.m, bias);
      } else {
        store_direct(accum[block], column, tile.m, bias);
      }
    }
  }

  // The last stores must have read shared memory before the CTA gives it up.
  __device__ __forceinline__ void finish() const {
    if (leader()) cute::tma_store_wait<0>();
  }

 private:
  __device__ __forceinline__ bool leader() const { return threadIdx.x % kWarpgroupThreads == 0; }

  __device__ __forceinline__ float load_bias(int column) const {
    if (params.bias == nullptr || column >= params.n) return 0.0f;
    return Element::to_float(static_cast<const typename Element::Storage*>(params.bias)[column]);
  }

  __device__ __forceinline__ float finish_value(float accum, float bias) const {
    return activate<Config::kActivation>(params.alpha * accum + bias);
  }

  __device__ __forceinline__ void sync_warpgroup() const {
    cutlass::arch::NamedBarrier::sync(kWarpgroupThreads, uint32_t(NamedBarrier::kFirstWarpgroup) + warpgroup);
  }

  __device__ __forceinline__ void store_chunk(const Accumulators<Config::kTileM>& accum, int chunk, int block_n,
                                              int tile_m, const float (&bias)[2]) {
    const int token = tile_m + chunk * Config::kStoreTokens;
    if (token >= params.m) return;
    const uint32_t buffer = stores++ % Config::kStoreBuffers;
    uint8_t(*slabs)[kSlabBytes<Config>] = smem.results[warpgroup][buffer];
    if (leader()) cute::tma_store_wait<Config::kStoreBuffers - 1>();
    sync_warpgroup();  // the buffer's last store has read it
    stage(accum, chunk, slabs, bias);
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

  __device__ __forceinline__ void stage(const Accumulators<Config::kTileM>& accum, int chunk,
                                        uint8_t (*slabs)[kSlabBytes<Config>], const float (&bias)[2]) const {
    constexpr int kPairBytes = 2 * sizeof(OutStorage);
    const int column_bytes = (warp * 16 + group * 2) * int(sizeof(OutStorage));
    const int piece = column_bytes % kSwizzleBytes / 16;
    uint8_t* slab = slabs[column_bytes / kSwizzleBytes] + column_bytes % 16;
#pragma unroll
    for (int eight = 0; eight < Config::kStoreTokens / 8; ++eight) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const float* pair = &accum.value[(chunk * (Config::kStoreTokens / 8) + eight) * 4 + odd];
        const float low = finish_value(pair[0], bias[0]);
        const float high = finish_value(pair[2], bias[1]);
        const int row = quad * 2 + odd;  // of the swizzle's eight rows
        uint8_t* target = slab + (eight * 8 + row) * kSwizzleBytes + ((piece ^ row) * 16);
        static_assert(kPairBytes == 4 || kPairBytes == 8);
        if constexpr (kFloatOut) {
          *reinterpret_cast<float2*>(target) = make_float2(low, high);
        } else {
          *reinterpret_cast<uint32_t*>(target) = Out::pack(low, high);
        }
      }
    }
  }

  __device__ __forceinline__ void store_direct(const Accumulators<Config::kTileM>& accum, int column, int tile_m,
                                               const float (&bias)[2]) const {
    OutStorage* out = static_cast<OutStorage*>(params.out);
#pragma unroll
    for (int i = 0; i < Config::kTileM / 4; ++i) {
      const int eight = i / 2, odd = i % 2;
      const int token = tile_m + eight * 8 + quad * 2 + odd;
      if (token >= params.m) continue;
      OutStorage* row = out + int64_t(token) * params.out_stride;
#pragma unroll
      for (int right = 0; right < 2; ++right) {
        if (column + right >= params.n) continue;
        const float value = finish_value(accum.value[eight * 4 + right * 2 + odd], bias[right]);
        if constexpr (kFloatOut) {
          row[column + right] = value;
        } else {
          row[column + right] = OutStorage(Out::pack(value, 0.0f));
        }
      }
    }
  }
};

}  // namespace w4a16
