// The types that a configuration names: elements, results and the kinds of zero points; and what tells them apart.
//
// The two 16-bit elements come as pairs, with their arithmetic and conversions. Pairs stay `uint32_t` everywhere, so
// no value takes a detour through a class and `cuda_fp16.h` is not compiled.
#pragma once

#include <cuda/std/cstdint>
#include <cuda/std/type_traits>

namespace w4a16 {

struct Half {
  using Storage = uint16_t;
  static constexpr bool kIsHalf = true;
  static constexpr uint32_t kOnes = 0x3C003C00;

  static __device__ __forceinline__ uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
  }
  static __device__ __forceinline__ uint32_t mul2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ uint32_t sub2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ float to_float(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }
};

struct Bfloat16 {
  using Storage = uint16_t;
  static constexpr bool kIsHalf = false;
  static constexpr uint32_t kOnes = 0x3F803F80;

  static __device__ __forceinline__ uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
  }
  static __device__ __forceinline__ uint32_t mul2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ uint32_t sub2(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ float to_float(uint16_t bits) {
    return __uint_as_float(uint32_t(bits) << 16);
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }
};

struct Float {
  using Storage = float;
  static __device__ __forceinline__ float to_float(float value) { return value; }
};

// Zero points as integers 0..16 in memory.
struct Uint8 {
  using Storage = uint8_t;
};
struct Int32 {
  using Storage = int32_t;
};

// No zero points: symmetric weights, zero = 8.
struct NoZeros {
  using Storage = uint8_t;
};
// Zero points that are not subtracted from the codes, but later from sums of products with them.
struct ZerosLater {
  using Storage = uint8_t;
};
// No zero points, with float16 scales normalised for the shorter dequantization (cupy_w4a16/_normalised.py).
struct NoZerosNormalised {
  using Storage = uint8_t;
};

template <class Zero>
inline constexpr bool kIsIntegerZero = cuda::std::is_same_v<Zero, Uint8> || cuda::std::is_same_v<Zero, Int32>;
template <class Zero>
inline constexpr bool kIsFloatZero =
    cuda::std::is_same_v<Zero, Half> || cuda::std::is_same_v<Zero, Bfloat16> ||
    cuda::std::is_same_v<Zero, Float>;

}  // namespace w4a16
