// From sums to the result: activation(alpha * sum + bias), rounded once.
//
// Sums are the result's transpose: a thread holds units, two neighbouring columns of one token. Where a tile has many
// tokens, a warp writes its units into a staging buffer of [token][128 bytes] with the 128-byte swizzle (no bank
// conflicts: four tokens of eight words each cover all 32 banks), and one thread stores the buffer with TMA, which
// clips at the edges of `out` (in units of 16 bytes). Where tokens are few, or `out` is not aligned for TMA, threads store their own units:
// a warp's eight lanes of one token fill one 32-byte sector.
#pragma once

#include "cute/arch/copy_sm90_tma.hpp"
#include "finish.cuh"
#include "params.cuh"
#include "ptx.cuh"
#include "reduce.cuh"
#include "scheduler.cuh"

namespace w4a16 {

template <class Config>
struct Epilogue {
  using OutStorage = typename Config::Out::Storage;
  using Storage = SharedStorage<Config>;
  static constexpr int kBlocks = kWarpgroupBlocks<Config>;
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

  // This thread's columns of every block.
  using Columns = ColumnPair<Config>[kBlocks];

  // `tile_n` is the first column of the warpgroup's first block.
  __device__ __forceinline__ void load_columns(Columns& columns, int tile_n) const {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      columns[block] = ColumnPair<Config>::load(params, tile_n + block * kBlockN + column());
    }
  }

  // `tile.n` as in load_columns(), `tile.m` the tile's first token.
  __device__ __forceinline__ void run(const Share& share, const Tile& tile, const Columns& columns) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const int block_n = tile.n + block * kBlockN;
      if (block_n >= params.n) break;
      const Finish<Config> finish(params, block_n + column(), columns[block]);
      if constexpr (kStaged<Config>) {
        if (params.out_aligned) {
#pragma unroll
          for (int chunk = 0; chunk < kResultTokens<Config> / Config::kStoreTokens; ++chunk) {
            store_chunk(share[block], chunk, block_n, tile.m, finish);
          }
          continue;
        }
      }
      store_direct(share[block], tile.m, finish);
    }
  }

  // The last stores must have read shared memory before the CTA gives it up.
  __device__ __forceinline__ void finish() const {
    if (kStaged<Config> && leader()) cute::tma_store_wait<0>();
  }

 private:
  // The left one of this thread's two columns in a block.
  __device__ __forceinline__ int column() const { return warp * 16 + group * 2; }

  __device__ __forceinline__ bool leader() const { return threadIdx.x % kWarpgroupThreads == 0; }

  __device__ __forceinline__ void sync_warpgroup() const {
    cutlass::arch::NamedBarrier::sync(kWarpgroupThreads, uint32_t(NamedBarrier::kFirstWarpgroup) + warpgroup);
  }

  __device__ __forceinline__ void store_chunk(const Block& results, int chunk, int block_n, int tile_m,
                                              const Finish<Config>& finish) {
    const int token = tile_m + first_unit * 4 + chunk * Config::kStoreTokens;
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
        cute::SM90_TMA_STORE_2D::copy(&params.out_map, slabs[slab], block_n + slab * kSlabColumns, token);
      }
      cute::tma_store_arrive();
    }
  }

  template <class Slabs>
  __device__ __forceinline__ void stage(const Block& results, int chunk, Slabs& slabs,
                                        const Finish<Config>& finish) const {
    const int column_bytes = column() * int(sizeof(OutStorage));
    const int piece = column_bytes % kSwizzleBytes / 16;
    uint8_t* slab = slabs[column_bytes / kSwizzleBytes] + column_bytes % 16;
#pragma unroll
    for (int i = 0; i < Config::kStoreTokens / 4; ++i) {
      const int unit = chunk * (Config::kStoreTokens / 4) + i;
      const int row = quad * 2 + i % 2;  // of the swizzle's eight rows
      finish.put(slab + (i / 2 * 8 + row) * kSwizzleBytes + ((piece ^ row) * 16), results.low[unit],
                 results.high[unit]);
    }
  }

  __device__ __forceinline__ void store_direct(const Block& results, int tile_m,
                                               const Finish<Config>& finish) const {
#pragma unroll
    for (int i = 0; i < kUnits<Config>; ++i) {
      const int unit = first_unit + i;
      const int token = tile_m + unit / 2 * 8 + quad * 2 + unit % 2;
      if (token < params.m) finish.store(token, results.low[i], results.high[i]);
    }
  }
};

}  // namespace w4a16
