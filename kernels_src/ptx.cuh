// Single instructions as functions, in the form that the kernels use: on bits, copies to shared memory with a cache
// policy, stores to it, loads past caches, ldmatrix, dependent launch.
#pragma once

#include <cuda/std/cstdint>

#include "cute/arch/copy_sm90_desc.hpp"
#include "cute/arch/copy_sm90_tma.hpp"

namespace w4a16 {

// (a & b) | c in one instruction.
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

__device__ __forceinline__ uint32_t rotate_right(uint32_t word, uint32_t bits) {
  return __funnelshift_r(word, word, bits);
}

// Both halves of the result are the low (high) half of `pair`. ptxas folds these into operand selectors.
__device__ __forceinline__ uint32_t broadcast_low(uint32_t pair) { return __byte_perm(pair, 0, 0x1010); }
__device__ __forceinline__ uint32_t broadcast_high(uint32_t pair) { return __byte_perm(pair, 0, 0x3232); }

// How long L2 should keep what a copy brings.
inline constexpr uint64_t kEvictFirst = uint64_t(cute::TMA::CacheHintSm90::EVICT_FIRST);
inline constexpr uint64_t kEvictNormal = uint64_t(cute::TMA::CacheHintSm90::EVICT_NORMAL);
inline constexpr uint64_t kEvictLast = uint64_t(cute::TMA::CacheHintSm90::EVICT_LAST);

// Bulk copy of `bytes` (a multiple of 16) to shared memory, completing on `barrier`; CUTLASS's has no cache policy.
__device__ __forceinline__ void bulk_load(void* smem, const void* gmem, uint32_t bytes, uint64_t* barrier,
                                          uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;"
      :
      : "r"(cute::cast_smem_ptr_to_uint(smem)), "l"(gmem), "r"(bytes),
        "r"(cute::cast_smem_ptr_to_uint(barrier)), "l"(policy)
      : "memory");
}

// The same, written to the same offset in every CTA of the cluster named by `mask`.
__device__ __forceinline__ void bulk_load_multicast(void* smem, const void* gmem, uint32_t bytes,
                                                    uint64_t* barrier, uint16_t mask, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4, %5;"
      :
      : "r"(cute::cast_smem_ptr_to_uint(smem)), "l"(gmem), "r"(bytes),
        "r"(cute::cast_smem_ptr_to_uint(barrier)), "h"(mask), "l"(policy)
      : "memory");
}

// Two or four floats into the shared memory of any CTA of the cluster, counted on a barrier there: no fence needed.
__device__ __forceinline__ void store_async(uint32_t remote, uint32_t remote_barrier, float2 v) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];"
               :
               : "r"(remote), "f"(v.x), "f"(v.y), "r"(remote_barrier)
               : "memory");
}
__device__ __forceinline__ void store_async(uint32_t remote, uint32_t remote_barrier, float4 v) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
               :
               : "r"(remote), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(remote_barrier)
               : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t address, float2 v) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" : : "r"(address), "f"(v.x), "f"(v.y) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, float4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(address), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
               : "memory");
}

// A load of what is read once: past L1, first to leave L2.
__device__ __forceinline__ uint4 load_once(const void* gmem) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(gmem), "l"(kEvictFirst));
  return v;
}

// A load that brings the whole line of 128 bytes to L2: neighbouring CTAs read the rest of it.
__device__ __forceinline__ uint32_t load_ahead(const void* gmem) {
  uint32_t v;
  asm volatile("ld.global.nc.L2::128B.u32 %0, [%1];" : "=r"(v) : "l"(gmem));
  return v;
}

// Sixteen bytes to shared memory, of which the first `bytes` come from memory and the rest are zero.
__device__ __forceinline__ void copy_async(uint32_t smem, const void* gmem, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(smem), "l"(gmem), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kPending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t smem, uint32_t& a, uint32_t& b, uint32_t& c,
                                              uint32_t& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(smem)
               : "memory");
}

// Dependent launch: lets the next kernel's CTAs start; waits until the kernels before this one are complete and
// their writes visible. Both do nothing in a launch without the attribute.
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;"); }
__device__ __forceinline__ void wait_for_dependencies() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace w4a16
