// W4A16 GEMM for SM90: c = activation(alpha * a @ w + bias), w four-bit codes with scales per group.
//
// Operands are swapped: weights are wgmma's A (from registers, after dequantisation), activations its B (from shared
// memory), so a tile is weights x tokens x k and its accumulators are the result's transpose.
//
//                       tokens m                    One CTA: two consumer warpgroups and a producer warpgroup.
//                   kTileM
//                  +------+------+----              cooperative: both consumers share a tile, each takes half its
//          kTileN  | tile | tile |                                columns (n64 blocks), all its tokens
//   weights n      +------+------+----              pingpong:     consumers take whole tiles in turns; one stores
//                  | tile |                                       while the other multiplies
//
//   producer   gmem --bulk copy/TMA--> stage ring: codes, scales, zeros, activations   (full[s] says: landed)
//   consumer   codes --LDS--> words --dequantise--> fragments --wgmma--> accum         (empty[s] says: let go)
//   epilogue   accum --> results in smem --TMA--> gmem
//
// One stage is 128 k: one packed block of codes for every 64 columns. A configuration is a struct of the constants
// that cupy_w4a16/_kernels.py writes out; params.cuh says what they become in shared memory.
#pragma once

#include "cute/arch/cluster_sm90.hpp"
#include "cutlass/arch/reg_reconfig.h"
#include "epilogue.cuh"
#include "mainloop.cuh"
#include "params.cuh"
#include "producer.cuh"
#include "scheduler.cuh"

namespace w4a16 {

template <class Config>
__device__ __forceinline__ void init_barriers(SharedStorage<Config>& smem, bool bulk_groups) {
  constexpr int kReaders = (Config::kPingpong ? 1 : kConsumerWarpgroups<Config>)*kWarpgroupWarps;
  constexpr int kSharers = Config::kClusterN + Config::kClusterM - 1;
#pragma unroll
  for (int stage = 0; stage < Config::kStages; ++stage) {
    Barrier::init(&smem.full[stage], bulk_groups ? 1 : 2);
    Barrier::init(&smem.empty[stage], kReaders * kSharers);
  }
  cutlass::arch::fence_barrier_init();
}

// Everyone sees the barriers before anyone uses them; in a cluster, the peers' too.
template <class Config>
__device__ __forceinline__ void sync_cluster() {
  if constexpr (kClusterSize<Config> > 1) {
    cute::cluster_arrive_relaxed();
    cute::cluster_wait();
  } else {
    __syncthreads();
  }
}

template <class Config>
__device__ __forceinline__ void consume(const Params& params, SharedStorage<Config>& smem, int warpgroup) {
  using Loop = Mainloop<Config>;
  const int first_block = Config::kPingpong ? 0 : warpgroup * Loop::kBlocks;
  const int k_blocks = ceil_div(params.k, kBlockK);
  Loop mainloop(smem, first_block);
  Epilogue<Config> epilogue(params, smem, warpgroup);
  typename Loop::State state;
  bool my_turn = !Config::kPingpong || warpgroup == 0;
  for (TileScheduler<Config> scheduler(params); !scheduler.done(); scheduler.next()) {
    if (my_turn) {
      typename Loop::Accum accum;
      mainloop.run(accum, state, k_blocks);
      Tile tile = scheduler.tile();
      tile.n += first_block * kBlockN;
      epilogue.run(accum, tile);
    } else {
      state.advance(k_blocks);
    }
    if constexpr (Config::kPingpong) my_turn = !my_turn;
  }
  epilogue.finish();
}

template <class Config>
__device__ __forceinline__ void gemm(const Params& params) {
  static_assert(sizeof(SharedStorage<Config>) == Config::kSmemBytes, "cupy_w4a16/_config.py counts otherwise");
  extern __shared__ __align__(1024) uint8_t shared[];
  auto& smem = *reinterpret_cast<SharedStorage<Config>*>(shared);

  if (threadIdx.x == 0) init_barriers<Config>(smem, params.bulk_groups);
  sync_cluster<Config>();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / kWarpgroupThreads, 0);
  if (warpgroup == kConsumerWarpgroups<Config>) {
    cutlass::arch::warpgroup_reg_dealloc<Config::kProducerRegisters>();
    const int warp = threadIdx.x / 32 % kWarpgroupWarps;
    Producer<Config> producer{params, smem};
    if (warp == 0) {
      if (cute::elect_one_sync()) producer.run_copy_engine();
    } else if (warp == 1 && !params.bulk_groups) {
      producer.run_unaligned_groups();
    }
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    consume<Config>(params, smem, warpgroup);
  }
  // Peers may still arrive at this CTA's barriers.
  if constexpr (kClusterSize<Config> > 1) sync_cluster<Config>();
}

}  // namespace w4a16

// One kernel: `name` is what the host looks up. Clusters are an attribute of the launch.
#define W4A16_GEMM(name, Config)                                                                                    \
  extern "C" __global__ void __launch_bounds__(w4a16::kThreads<Config>, 1)                                          \
      name(const __grid_constant__ w4a16::Params params) {                                                          \
    w4a16::gemm<Config>(params);                                                                                    \
  }
