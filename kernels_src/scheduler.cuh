// Which output tile a CTA works on, and in which order.
//
// Static and persistent: cluster i takes tiles i, i + clusters, i + 2 clusters, ... Consecutive tiles run down
// kRasterN tiles of weights before they step along the tokens, so the CTAs at work at one time share both operands
// in L2. A tile below is a cluster's: cluster_n x cluster_m CTA tiles. With k split over a cluster, the launch has a
// cluster for every tile, and each of its CTAs takes a run of the k blocks.
#pragma once

#include "cute/arch/cluster_sm90.hpp"
#include "params.cuh"

namespace w4a16 {

struct Tile {
  int n;  // first column (weights)
  int m;  // first row (tokens)
};

template <class Config>
struct TileScheduler {
  static constexpr int kRasterN = 8;

  int tiles_n, tiles_m;  // in clusters' tiles
  int tile_idx, num_clusters;
  int rank_n, rank_m, rank_k;  // of this CTA in its cluster

  __device__ __forceinline__ explicit TileScheduler(const Params& params) {
    tiles_n = ceil_div(params.n, Config::kTileN * Config::kClusterN);
    tiles_m = ceil_div(params.m, Config::kTileM * Config::kClusterM);
    tile_idx = blockIdx.x / kClusterSize<Config>;
    num_clusters = gridDim.x / kClusterSize<Config>;
    int rank = kClusterSize<Config> > 1 ? int(cute::block_rank_in_cluster()) : 0;
    rank_n = rank % Config::kClusterN;
    rank_m = rank / Config::kClusterN % Config::kClusterM;
    rank_k = Config::kSplitCluster == 1 ? 0 : rank / kSharers<Config>;
  }

  __device__ __forceinline__ bool done() const { return tile_idx >= tiles_n * tiles_m; }
  __device__ __forceinline__ void next() { tile_idx += num_clusters; }

  // This CTA's run of k blocks.
  __device__ __forceinline__ int first_k_block(int k_blocks) const { return share(k_blocks, rank_k); }
  __device__ __forceinline__ int num_k_blocks(int k_blocks) const {
    return share(k_blocks, rank_k + 1) - share(k_blocks, rank_k);
  }

  __device__ __forceinline__ Tile tile() const {
    int per_band = kRasterN * tiles_m;
    int first_n = tile_idx / per_band * kRasterN;
    int band = min(kRasterN, tiles_n - first_n);
    int within = tile_idx % per_band;
    int tile_n = first_n + within % band;
    int tile_m = within / band;
    return {(tile_n * Config::kClusterN + rank_n) * Config::kTileN,
            (tile_m * Config::kClusterM + rank_m) * Config::kTileM};
  }

 private:
  __device__ __forceinline__ static int share(int k_blocks, int rank) {
    return Config::kSplitCluster == 1 ? k_blocks * rank
                                      : int(int64_t(k_blocks) * rank / Config::kSplitCluster);
  }
};

}  // namespace w4a16
