// Adding up what several contributors along k have summed: warpgroups of a CTA and CTAs of a cluster.
//
// Every contributor ends up with its own share of the tile's tokens. It pushes the other shares from its registers
// into their owners' shared memory: in a cluster with st.async, which counts the bytes on the owner's barrier (no
// fence, no workspace); inside a CTA with plain stores and an arrival a thread (st.async outside a cluster launch is
// an illegal instruction). Owners add in the order of contributors, so the same configuration gives the same bits
// every time.
#pragma once

#include "cute/arch/cluster_sm90.hpp"
#include "ptx.cuh"
#include "storage.cuh"
#include "wgmma.cuh"

namespace w4a16 {

template <class Config>
struct Reduction {
  using Storage = SharedStorage<Config>;
  static constexpr int kBlocks = kSplitBlocks<Config>;
  static constexpr int kFirstBlock = kWarpgroupBlocks<Config> - kBlocks;
  static constexpr int kShare = kUnits<Config>;
  static constexpr bool kRemote = Config::kSplitCluster > 1;
  static constexpr bool kWide = kShare % 2 == 0;  // two units at once
  static constexpr int kPushBytes = kWide ? 16 : 8;
  static constexpr int kPushes = kBlocks * kShare / (kWide ? 2 : 1);  // of one thread to one owner

  using Share = Results<kShare>[kBlocks];

  Storage& smem;
  const int receiver;     // the warpgroup; 0 where only one has partial sums
  const int contributor;  // rank of the CTA along k x warpgroups along k + warpgroup along k

  // Gives the others their shares of `accum`.
  __device__ __forceinline__ void push(const Accum<Config>& accum) const {
    if constexpr (kRemote) cute::cluster_wait();  // the peers have started and set up their barriers
    const uint32_t partials = cute::cast_smem_ptr_to_uint(smem.partials[0]);
    const uint32_t reduced = cute::cast_smem_ptr_to_uint(&smem.reduced[0]);
    const int along_n = receiver % Config::kWarpgroupsN;
#pragma unroll
    for (int owner = 0; owner < kSplits<Config>; ++owner) {
      if (owner == contributor) continue;
      const int owner_receiver = owner % Config::kSplitWarpgroups * Config::kWarpgroupsN + along_n;
      const int slot = contributor - (contributor > owner);
      uint32_t target = partials + owner_receiver * kPartialBytes<Config> + push_offset(slot, 0);
      uint32_t barrier = reduced + owner_receiver * sizeof(uint64_t);
      if constexpr (kRemote) {
        const uint32_t rank = owner / Config::kSplitWarpgroups;
        target = cute::set_block_rank(target, rank);
        barrier = cute::set_block_rank(barrier, rank);
      }
#pragma unroll
      for (int i = 0; i < kPushes; ++i) {
        const uint32_t address = target + i * kPushBytes * kWarpgroupThreads;
        if constexpr (kWide) {
          const auto& from = accum[kFirstBlock + i * 2 / kShare];
          const int unit = owner * kShare + i * 2 % kShare;
          const float4 values =
              make_float4(low(from, unit), high(from, unit), low(from, unit + 1), high(from, unit + 1));
          if constexpr (kRemote) {
            store_async(address, barrier, values);
          } else {
            store_shared(address, values);
          }
        } else {
          const auto& from = accum[kFirstBlock + i / kShare];
          const int unit = owner * kShare + i % kShare;
          const float2 values = make_float2(low(from, unit), high(from, unit));
          if constexpr (kRemote) {
            store_async(address, barrier, values);
          } else {
            store_shared(address, values);
          }
        }
      }
      if constexpr (!kRemote) Barrier::arrive(&smem.reduced[owner_receiver]);
    }
  }

  // `accum` summed over all contributors, this one's share of the tokens.
  __device__ __forceinline__ void receive(const Accum<Config>& accum, Share& share) const {
    Barrier::wait(&smem.reduced[receiver], 0);
    add(accum, share);
  }

 private:
  // Bytes from the start of a warpgroup's partial sums to this thread's i-th push of `slot`.
  __device__ __forceinline__ static uint32_t push_offset(int slot, int i) {
    return ((slot * kPushes + i) * kWarpgroupThreads + threadIdx.x % kWarpgroupThreads) * kPushBytes;
  }

  __device__ __forceinline__ void add(const Accum<Config>& accum, Share& share) const {
    const uint8_t* partials = smem.partials[receiver];
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int unit = 0; unit < kShare; ++unit) share[block].low[unit] = share[block].high[unit] = 0.0f;
    }
#pragma unroll
    for (int from = 0; from < kSplits<Config>; ++from) {
      const int slot = from - (from > contributor);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int unit = 0; unit < kShare; ++unit) {
          const int i = (block * kShare + unit) / (kWide ? 2 : 1);
          const float2* pushed =
              reinterpret_cast<const float2*>(partials + push_offset(slot, i)) + (kWide ? unit % 2 : 0);
          const auto& own = accum[kFirstBlock + block];
          // `from * kShare` is a constant, so the registers of `accum` stay registers.
          float2 pair = make_float2(low(own, from * kShare + unit), high(own, from * kShare + unit));
          if (from != contributor) pair = *pushed;
          share[block].low[unit] += pair.x;
          share[block].high[unit] += pair.y;
        }
      }
    }
  }
};

}  // namespace w4a16
