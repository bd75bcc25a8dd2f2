// A warpgroup's sums on their way to `out`, by one of two ways; finish.cuh makes results of them.
//
// Sums are the result's transpose: a thread holds units, two neighbouring columns of one token. Where a tile has
// many tokens, a warpgroup writes its units into a staging buffer of [token][128 bytes] with the 128-byte swizzle
// (no bank conflicts: four tokens of eight words each cover all 32 banks), and one thread stores the buffer with
// TMA, which clips at the edges of `out` (in units of 16 bytes). Where tokens are few, or `out` is not aligned for
// TMA, threads store their own units: a warp's eight lanes of one token fill whole 32-byte sectors.
#pragma once

#include "cute/arch/copy_sm90_tma.hpp"
#include "finish.cuh"
#include "storage.cuh"
#include "wgmma.cuh"

namespace w4a16 {

template <class Config>
struct Epilogue {
  using OutStorage = typename Config::Out::Storage;
  using Storage = SharedStorage<Config>;
  static constexpr int kBlocks = kWarpgroupBlocks<Config>;
  static constexpr int kSlabColumns = kSwizzleBytes / sizeof(OutStorage);

  const Params& params;
  Storage& smem;
  const int warpgroup;
  const int warp;         // in the warpgroup
  const int column_pair;  // lane / 4, of the eight in the warp's sixteen columns
  const int token_pair;   // lane % 4, of the four in each eight tokens
  uint32_t stores = 0;    // staging buffers filled so far

  __device__ __forceinline__ Epilogue(const Params& params, Storage& smem, int warpgroup)
      : params(params),
        smem(smem),
        warpgroup(warpgroup),
        warp(threadIdx.x / 32 % kWarpgroupWarps),
        column_pair(threadIdx.x % 32 / 4),
        token_pair(threadIdx.x % 4) {}

  // This thread's columns of every block.
  using Columns = ColumnPair<Config>[kBlocks];

  // `first_column` is the stage's.
  __device__ __forceinline__ void load_columns(Columns& columns, int first_column,
                                               const Places<Config>& places) const {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      columns[block] = ColumnPair<Config>::load(params, first_column + places(block) * kBlockN + column());
    }
  }

  // A block's results: its columns from `first_column` on; of the tile's units, kCount from `first_unit` on.
  template <int kCount>
  __device__ __forceinline__ void run(const Results<kCount>& results, int first_column, int first_token,
                                      int first_unit, const ColumnPair<Config>& pair) {
    if (first_column >= params.n) return;
    const Finish<Config> finish(params, first_column + column(), pair);
    if constexpr (kStaged<Config>) {
      if (params.out_aligned) {
#pragma unroll
        for (int chunk = 0; chunk < kCount * 4 / Config::kStoreTokens; ++chunk) {
          store_chunk(results, chunk, first_column,
                      first_token + first_unit * 4 + chunk * Config::kStoreTokens, finish);
        }
        return;
      }
    }
    store_direct(results, first_token, first_unit, finish);
  }

  // The last stores must have read shared memory before the CTA gives it up.
  __device__ __forceinline__ void drain_stores() const {
    if (kStaged<Config> && leader()) cute::tma_store_wait<0>();
  }

 private:
  // The left one of this thread's two columns in a block.
  __device__ __forceinline__ int column() const { return warp * 16 + column_pair * 2; }

  __device__ __forceinline__ bool leader() const { return threadIdx.x % kWarpgroupThreads == 0; }

  __device__ __forceinline__ void sync_warpgroup() const {
    cutlass::arch::NamedBarrier::sync(kWarpgroupThreads, uint32_t(NamedBarrier::kFirstWarpgroup) + warpgroup);
  }

  template <int kCount>
  __device__ __forceinline__ void store_chunk(const Results<kCount>& results, int chunk, int first_column,
                                              int token, const Finish<Config>& finish) {
    if (token >= params.m) return;
    const uint32_t buffer = stores++ % Config::kStoreBuffers;
    auto& slabs = smem.results[warpgroup][buffer];
    if (leader()) cute::tma_store_wait<Config::kStoreBuffers - 1>();
    sync_warpgroup();  // the buffer's last store has read it
    stage(results, chunk, slabs, finish);
    cute::tma_store_fence();
    sync_warpgroup();
    if (leader()) {
#pragma unroll
      for (int slab = 0; slab < kBlockSlabs<Config>; ++slab) {
        cute::SM90_TMA_STORE_2D::copy(&params.out_map, slabs[slab], first_column + slab * kSlabColumns,
                                      token);
      }
      cute::tma_store_arrive();
    }
  }

  template <int kCount, class Slabs>
  __device__ __forceinline__ void stage(const Results<kCount>& results, int chunk, Slabs& slabs,
                                        const Finish<Config>& finish) const {
    const int column_bytes = column() * int(sizeof(OutStorage));
    const int piece = column_bytes % kSwizzleBytes / 16;
    uint8_t* slab = slabs[column_bytes / kSwizzleBytes] + column_bytes % 16;
#pragma unroll
    for (int i = 0; i < Config::kStoreTokens / 4; ++i) {
      const int unit = chunk * (Config::kStoreTokens / 4) + i;
      const int row = token_pair * 2 + i % 2;  // of the swizzle's eight rows
      finish.put(slab + (i / 2 * 8 + row) * kSwizzleBytes + ((piece ^ row) * 16), results.low[unit],
                 results.high[unit]);
    }
  }

  template <int kCount>
  __device__ __forceinline__ void store_direct(const Results<kCount>& results, int first_token,
                                               int first_unit, const Finish<Config>& finish) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int unit = first_unit + i;
      const int token = first_token + unit / 2 * 8 + token_pair * 2 + unit % 2;
      if (token < params.m) finish.store(token, results.low[i], results.high[i]);
    }
  }
};

}  // namespace w4a16
