// W4A16 GEMM for SM90: c = activation(alpha * a @ w + bias), w four-bit codes with scales per group.
//
// Operands are swapped: weights are wgmma's A (from registers, after dequantization), activations its B (from shared
// memory), so a tile is weights x tokens x k and its accumulators are the result's transpose.
//
//                       tokens m                    One CTA: consumer warpgroups and a producer warpgroup.
//                   kTileM
//                  +------+------+----              cooperative: consumers share a tile; each takes some of its columns
//          kTileN  | tile | tile |                                (n64 blocks), all its tokens, and, with k split over
//   weights n      +------+------+----                            kSplitWarpgroups, every second stage of its k
//                  | tile |                         pingpong:     consumers take whole tiles in turns; one stores
//                                                                 while the other multiplies
//   With k split over a cluster, its CTAs take a run of k each and add up through distributed shared memory. With tiles
//   of half a block more, they do so for the block between their tiles only (scheduler.cuh draws it).
//
//   producer   gmem --bulk copy/TMA--> stage ring: codes, scales, zeros, activations   (full[s] says: landed)
//   consumer   codes --LDS--> words --dequantize--> fragments --wgmma--> accum         (empty[s] says: let go)
//   reduction  accum --st.async--> partials of the owner --> its share                 (reduced says: all arrived)
//   epilogue   share --> results in smem --TMA--> gmem
//
// One stage is 128 k: one packed block of codes for every 64 columns.
//
// A configuration is a struct of constants; cupy_w4a16/_kernels.py writes it, shape.cuh says what follows from it, and
// storage.cuh what it becomes in shared memory. That of GemmConfig(128, 128), for symmetric float16 weights:
//
//   struct Config {
//     using Element = Half;                              // of activations, scales and bias: Half or Bfloat16
//     using Zero = NoZeros;                              // or Uint8, Int32, Float, Element's, NoZerosNormalised
//     using Out = Half;                                  // of results: Element's or Float
//     static constexpr int kGroupSize = 128;             // k of a group: 32, 64, or 128 for that and more
//     static constexpr int kTileM = 128;                 // tokens of a CTA's tile
//     static constexpr int kCtasPerSm = 1;               // CTAs that an SM's registers and shared memory are cut for
//     static constexpr Activation kActivation = Activation::kNone;  // finish.cuh has them
//     static constexpr int kSmemBytes = 198656;          // bytes of SharedStorage
//     static constexpr int kTileN = 128;                 // columns (weights) of a CTA's tile
//     static constexpr int kClusterN = 1;                // CTAs that share activations by multicast
//     static constexpr int kClusterM = 1;                // CTAs that share codes by multicast
//     static constexpr int kStages = 4;                  // stages of 128 k in flight
//     static constexpr bool kPingpong = false;           // consumer warpgroups take whole tiles in turns
//     static constexpr int kWarpgroupsN = 2;             // warpgroups that share a tile's columns; pingpong: 1
//     static constexpr int kSplitWarpgroups = 1;         // warpgroups of a CTA that split k
//     static constexpr int kSplitCluster = 1;            // CTAs of a cluster that split k
//     static constexpr bool kScaleAccumulators = false;  // scales multiply float32 sums, not weights
//     static constexpr int kBatchSteps = 1;              // steps of 16 k between two waits: 1, 2 or 4
//     static constexpr int kStoreTokens = 64;            // tokens of one staged store; 0: none is staged
//     static constexpr int kStoreBuffers = 2;            // buffers that a warpgroup stages its stores in
//     static constexpr int kConsumerRegisters = 232;     // registers of a thread that multiplies
//     static constexpr int kProducerRegisters = 40;      // registers of a thread that loads
//   };
#pragma once

#include "cute/arch/cluster_sm90.hpp"
#include "cutlass/arch/reg_reconfig.h"
#include "epilogue.cuh"
#include "mainloop.cuh"
#include "producer.cuh"
#include "reduce.cuh"
#include "scheduler.cuh"
#include "storage.cuh"

namespace w4a16 {

template <class Config>
__device__ __forceinline__ void init_barriers(SharedStorage<Config>& smem, bool aligned_groups) {
#pragma unroll
  for (int stage = 0; stage < Config::kStages; ++stage) {
    Barrier::init(&smem.full[stage], aligned_groups ? 2 : 2 + 32);  // the producer's threads
    Barrier::init(&smem.empty[stage], kReleaseLanes * Config::kWarpgroupsN * kWarpgroupWarps *
                                          (Config::kClusterN + Config::kClusterM - 1));
  }
  if constexpr (kSplits<Config> > 1) {
#pragma unroll
    for (int warpgroup = 0; warpgroup < kReceivers<Config>; ++warpgroup) {
      if constexpr (Config::kSplitCluster > 1) {
        Barrier::init(&smem.reduced[warpgroup], 1);
        Barrier::arrive_and_expect_tx(&smem.reduced[warpgroup], kPartialBytes<Config>);
      } else {
        Barrier::init(&smem.reduced[warpgroup], (kSplits<Config> - 1) * kWarpgroupThreads);
      }
    }
  }
  cutlass::arch::fence_barrier_init();
}

// Everyone in the CTA sees the barriers before anyone uses them; peers in a cluster before their first multicast.
// Contributors to one sum meet later: Reduction waits for this arrival.
template <class Config>
__device__ __forceinline__ void sync_start() {
  if constexpr (kClusterSize<Config> > 1) cute::cluster_arrive_relaxed();
  if constexpr (kSharers<Config> > 1) {
    cute::cluster_wait();
  } else {
    __syncthreads();
  }
}

// Pingpong's turns at the ring of stages. A warpgroup may not wait for a stage while the other is still a round behind:
// full barriers tell rounds apart by parity alone.
template <bool kPingpong>
struct Turns {
  using NamedBarrierOps = cutlass::arch::NamedBarrier;
  const int warpgroup;

  __device__ __forceinline__ explicit Turns(int warpgroup) : warpgroup(warpgroup) {
    if (kPingpong && warpgroup == 1) pass();  // the first turn is warpgroup 0's
  }
  __device__ __forceinline__ void take() const {
    if constexpr (kPingpong) NamedBarrierOps::sync(2 * kWarpgroupThreads, id(warpgroup));
  }
  __device__ __forceinline__ void pass() const {
    if constexpr (kPingpong) NamedBarrierOps::arrive(2 * kWarpgroupThreads, id(1 - warpgroup));
  }

 private:
  __device__ __forceinline__ static uint32_t id(int warpgroup) {
    return uint32_t(NamedBarrier::kFirstTurn) + warpgroup;
  }
};

// The tile's blocks to `out`: those that others add to last, when their sums have had time to arrive.
template <class Config>
__device__ __forceinline__ void store_blocks(Epilogue<Config>& epilogue, const Reduction<Config>& reduction,
                                             const Accum<Config>& accum, const Tile& tile,
                                             const Places<Config>& places, bool splits,
                                             const typename Epilogue<Config>::Columns& columns) {
  constexpr int kBlocks = kWarpgroupBlocks<Config>;
  constexpr int kWhole = kSplits<Config> == 1 ? kBlocks : kBlocks - kSplitBlocks<Config>;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    if (block < kWhole || !splits) {
      epilogue.run(whole(accum[block]), tile.n + places(block) * kBlockN, tile.m, 0, columns[block]);
    }
  }
  if constexpr (kWhole < kBlocks) {
    if (!splits) return;
    typename Reduction<Config>::Share share;
    reduction.receive(accum, share);
#pragma unroll
    for (int block = kWhole; block < kBlocks; ++block) {
      epilogue.run(share[block - kWhole], tile.n + places(block) * kBlockN, tile.m,
                   reduction.contributor * kUnits<Config>, columns[block]);
    }
  }
}

template <class Config>
__device__ __forceinline__ void consume(const Params& params, SharedStorage<Config>& smem, int warpgroup) {
  using Loop = Mainloop<Config>;
  TileScheduler<Config> scheduler(params);
  const int along_n = warpgroup % Config::kWarpgroupsN;
  // Written so that the compiler knows where it is always 0.
  const int along_k = Config::kSplitWarpgroups == 1 ? 0 : warpgroup / Config::kWarpgroupsN;
  const int contributor = scheduler.rank_k * Config::kSplitWarpgroups + along_k;
  const int k_blocks = scheduler.num_k_blocks(ceil_div(params.k, kBlockK));
  // Whether others add to this warpgroup's blocks; of a pair's, to the last one's.
  const bool splits = kSplits<Config> > 1 && (!kSharesBlock<Config> || along_n == Config::kWarpgroupsN - 1);

  Places<Config> places{along_n * Loop::kBlocks, 1};
  if (kSharesBlock<Config> && scheduler.rank_k == 1) {
    places = {SharedStorage<Config>::kBlocks - 1 - places.first, -1};
  }
  Loop mainloop(smem, places);
  Reduction<Config> reduction{smem, kSharesBlock<Config> ? 0 : warpgroup, contributor};
  Epilogue<Config> epilogue(params, smem, warpgroup);
  typename Loop::State state;
  const Turns<Config::kPingpong> turns(warpgroup);
  bool my_turn = !Config::kPingpong || warpgroup == 0;
  bool ready = false;
  for (; !scheduler.done(); scheduler.next()) {
    if (my_turn) {
      const Tile tile = scheduler.tile();
      typename Epilogue<Config>::Columns columns;
      epilogue.load_columns(columns, tile.n, places);
      Accum<Config> accum;
      turns.take();
      if constexpr (kSharesBlock<Config>) {
        mainloop.run_sharing(accum, state, k_blocks, scheduler.middle(k_blocks), splits, scheduler.rank_k);
      } else {
        mainloop.run(accum, state, k_blocks, along_k);
      }
      turns.pass();
      if constexpr (kSplits<Config> > 1) {
        if (splits) reduction.push(accum);
      }
      if (!ready) wait_for_dependencies();  // a kernel before this one may still read `out`
      ready = true;
      store_blocks(epilogue, reduction, accum, tile, places, splits, columns);
    } else {
      state.advance(k_blocks);
    }
    if constexpr (Config::kPingpong) my_turn = !my_turn;
  }
  epilogue.drain_stores();
}

template <class Config>
__device__ __forceinline__ void gemm(const Params& params) {
  static_assert(sizeof(SharedStorage<Config>) == Config::kSmemBytes, "cupy_w4a16/_smem.py counts otherwise");
  static_assert(kSplits<Config> == 1 || kSharers<Config> == 1, "k is split or operands are shared, not both");
  static_assert(!kSharesBlock<Config> || (kSplits<Config> == 2 && Config::kSplitCluster == 2),
                "a pair of CTAs shares it");
  static_assert(!Config::kPingpong || kSplits<Config> == 1, "one warpgroup would never have a tile");
  static_assert(Config::kStages >= 2 * Config::kSplitWarpgroups,
                "a warpgroup would wait for the stage it holds");
  static_assert(Config::kStages % Config::kSplitWarpgroups == 0,
                "a warpgroup must always meet the same stages");
  extern __shared__ __align__(1024) uint8_t shared[];
  auto& smem = *reinterpret_cast<SharedStorage<Config>*>(shared);

  if (threadIdx.x == 0) init_barriers<Config>(smem, params.aligned_groups);
  sync_start<Config>();
  launch_dependents();

  const int warpgroup = __shfl_sync(~0u, threadIdx.x / kWarpgroupThreads, 0);
  if (warpgroup == kConsumerWarpgroups<Config>) {
    cutlass::arch::warpgroup_reg_dealloc<Config::kProducerRegisters>();
    const int warp = threadIdx.x / 32 % kWarpgroupWarps;
    Producer<Config> producer{params, smem};
    if (warp == 0) {
      if (cute::elect_one_sync()) producer.run_weights();
    } else if (warp == 1) {
      if (cute::elect_one_sync()) producer.run_activations();
    } else if (warp == 2 && !params.aligned_groups) {
      producer.run_unaligned_groups();
    }
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    consume<Config>(params, smem, warpgroup);
  }
  if constexpr (kSharers<Config> > 1) {
    // Peers may still arrive at this CTA's barriers, to release the last stages: it stays until they have. A
    // relaxed arrival here would not be ordered after those; a releasing one is.
    cute::cluster_arrive();
    cute::cluster_wait();
  }
}

}  // namespace w4a16

// One kernel: `name` is what the host looks up. Clusters are an attribute of the launch.
#define W4A16_GEMM(name, Config)                                                                  \
  extern "C" __global__ void __launch_bounds__(w4a16::kThreads<Config>, Config::kCtasPerSm) name( \
      const __grid_constant__ w4a16::Params params) {                                             \
    w4a16::gemm<Config>(params);                                                                  \
  }
