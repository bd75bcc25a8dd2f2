// Which output tile a CTA works on, and in which order.
//
// Static and persistent: cluster i takes tiles i, i + clusters, i + 2 clusters, ... Consecutive tiles run down
// kRasterN tiles of weights before they step along the tokens, so the CTAs at work at one time share both operands
// in L2. A tile below is a cluster's: cluster_n x cluster_m CTA tiles. With k split over a cluster, the launch has a
// cluster for every tile, and each of its CTAs takes a run of the k blocks; with one block shared, for that block only:
//
//             first half of k   second half          kTileN = 2.5 blocks: a pair of CTAs has five
//   block 0   CTA 0             CTA 0
//   block 1   CTA 0             CTA 0
//   block 2   CTA 0             CTA 1                shared
//   block 3   CTA 1             CTA 1
//   block 4   CTA 1             CTA 1
#pragma once

#include "cute/arch/cluster_sm90.hpp"
#include "shape.cuh"

namespace w4a16 {

struct Tile {
  int n;  // first column (weights)
  int m;  // first row (tokens)
};

template <class Config>
struct TileScheduler {
  static constexpr int kRasterN = 8;        // in trials 16 and 32 were no faster
  static constexpr int kNone = 0x7fffffff;  // a tile index past all

  // Columns from one cluster's tile to the next, and from a CTA's stage to that of the next one in the cluster.
  static constexpr int kClusterTileN = Config::kTileN * Config::kClusterN * (kSharesBlock<Config> ? 2 : 1);
  static constexpr int kPairStep = kStageN<Config> - kBlockN;

  int tiles_n, tiles_m;  // in clusters' tiles
  int tile_idx, num_clusters;
  int rank_n, rank_m, rank_k;  // of this CTA in its cluster

  __device__ __forceinline__ explicit TileScheduler(const Params& params) {
    tiles_n = ceil_div(params.n, kClusterTileN);
    tiles_m = ceil_div(params.m, Config::kTileM * Config::kClusterM);
    tile_idx = blockIdx.x / kClusterSize<Config>;
    num_clusters = gridDim.x / kClusterSize<Config>;
    int rank = kClusterSize<Config> > 1 ? int(cute::block_rank_in_cluster()) : 0;
    rank_n = rank % Config::kClusterN;
    rank_m = rank / Config::kClusterN % Config::kClusterM;
    rank_k = Config::kSplitCluster == 1 ? 0 : rank / kSharers<Config>;
  }

  __device__ __forceinline__ bool done() const { return tile_idx >= tiles_n * tiles_m; }
  __device__ __forceinline__ void next() { tile_idx = kSplits<Config> > 1 ? kNone : tile_idx + num_clusters; }

  // This CTA's run of k blocks.
  __device__ __forceinline__ int first_k_block(int k_blocks) const {
    return kSharesBlock<Config> ? 0 : run_begin(k_blocks, rank_k);
  }
  __device__ __forceinline__ int num_k_blocks(int k_blocks) const {
    return kSharesBlock<Config> ? k_blocks : run_begin(k_blocks, rank_k + 1) - run_begin(k_blocks, rank_k);
  }

  // Where the second half of k begins, for a shared block.
  __device__ __forceinline__ static int middle(int k_blocks) { return run_begin(k_blocks, 1); }

  __device__ __forceinline__ Tile tile() const {
    int per_band = kRasterN * tiles_m;
    int first_idx = tile_idx / per_band * kRasterN;
    int band = min(kRasterN, tiles_n - first_idx);
    int within = tile_idx % per_band;
    int idx_n = first_idx + within % band;
    int idx_m = within / band;
    return {idx_n * kClusterTileN + (kSharesBlock<Config> ? rank_k * kPairStep : rank_n * Config::kTileN),
            (idx_m * Config::kClusterM + rank_m) * Config::kTileM};
  }

 private:
  // The first of the k blocks of the CTA with that rank along k.
  __device__ __forceinline__ static int run_begin(int k_blocks, int rank) {
    return Config::kSplitCluster == 1 ? k_blocks * rank
                                      : int(int64_t(k_blocks) * rank / Config::kSplitCluster);
  }
};

}  // namespace w4a16
