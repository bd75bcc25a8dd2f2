// Four-bit codes to fragments: one packed word holds the eight weights of one thread's wgmma A fragment.
//
// The word is rotated left by two (cupy_w4a16/_pack.py draws it), so that under two masks, on the word and on the
// word rotated right by eight, every code lies in the mantissa of a 16-bit float:
//
//   bits 2-5  ->  a0 (a2 after the rotation), columns 2g        as float16 magic 0x6400: 1024 +  4 q
//   bits 6-9  ->  a1 (a3 after the rotation), columns 2g + 1                             1024 + 64 q
//
// One fma takes the magic and the zero point away (exact), one multiplication by the scale rounds once: the result
// is float32's (q - zero) * scale rounded to the element type, bit for bit. bfloat16 has seven mantissa bits, so only
// bits 2-5 fit (0x4300: 128 + 4 q) and the word is rotated by four between registers.
//
// With normalised scales (symmetric float16; cupy_w4a16/_normalised.py) there is no magic: what a mask leaves is a
// float16 denormal, q x 2^-22 or q x 2^-18, and one fma with the scale and -8 x the scale is the weight, rounded once.
#pragma once

#include "numeric.cuh"
#include "ptx.cuh"

namespace w4a16 {

// What turns the codes of one group and two neighbouring columns (2g, 2g + 1) into weights.
template <class Element, class Zero>
struct GroupScale {
  uint32_t scale;         // a pair: column 2g in the low half
  uint32_t addend[2];     // what the fma adds, a pair per column; normalised: -8 x the scales, both in [0]
  uint32_t zero_high[2];  // float zeros, subtracted after the fma: a pair per column, rounded to Element
  uint32_t zero_low[2];   // where they are wider than Element: what the rounding left over
};

namespace detail {

inline constexpr uint32_t kHalfMagic = 0x64006400;      // 1024 | mantissa
inline constexpr uint32_t kBfloat16Magic = 0x43004300;  // 128 | mantissa
inline constexpr uint32_t kMaskLow = 0x003C003C;
inline constexpr uint32_t kMaskHigh = 0x03C003C0;
inline constexpr uint32_t kHalfQuarter = 0x34003400;      // 1/4
inline constexpr uint32_t kHalfSixtyFourth = 0x24002400;  // 1/64
inline constexpr uint32_t kBfloat16Quarter = 0x3E803E80;  // 1/4
inline constexpr uint32_t kHalfMinusEight = 0x82008020;   // -8 x 2^-22 and, in the high half, -8 x 2^-18

// Beside the code, the magic leaves a base, which differs between the registers of the two columns in float16.
// Its negative, and what its bits grow by when a zero of one (of up to 16) is subtracted too.
template <class Element, int kColumn>
inline constexpr uint32_t kMinusBase = !Element::kIsHalf ? 0xC200C200   // -32
                                       : kColumn == 0    ? 0xDC00DC00   // -256
                                                         : 0xCC00CC00;  // -16
template <class Element, int kColumn>
inline constexpr uint32_t kMinusOne = Element::kIsHalf && kColumn == 1 ? 0x00400040 : 0x00040004;

template <class Element, int kColumn>
__device__ __forceinline__ uint32_t minus_base_and(uint32_t zero) {
  return kMinusBase<Element, kColumn> + zero * kMinusOne<Element, kColumn>;
}

}  // namespace detail

// What columns 2g and 2g + 1 need: their scales as a pair, their zeros as they lie in memory.
template <class Element, class Zero, class ZeroStorage>
__device__ __forceinline__ GroupScale<Element, Zero> make_group_scale(uint32_t scales,
                                                                      const ZeroStorage (&zeros)[2]) {
  GroupScale<Element, Zero> group;
  group.scale = scales;
  if constexpr (cuda::std::is_same_v<Zero, NoZerosNormalised>) {
    group.addend[0] = Element::mul2(scales, detail::kHalfMinusEight);
  } else if constexpr (cuda::std::is_same_v<Zero, ZerosLater>) {
    group.addend[0] = detail::minus_base_and<Element, 0>(0);
    group.addend[1] = detail::minus_base_and<Element, 1>(0);
  } else if constexpr (cuda::std::is_same_v<Zero, NoZeros>) {
    group.addend[0] = detail::minus_base_and<Element, 0>(8);
    group.addend[1] = detail::minus_base_and<Element, 1>(8);
  } else if constexpr (kIsIntegerZero<Zero>) {
    group.addend[0] = detail::minus_base_and<Element, 0>(zeros[0]);
    group.addend[1] = detail::minus_base_and<Element, 1>(zeros[1]);
  } else {
    // Float zeros: high part and rest in the element type, subtracted one after the other from the exact code.
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      float zero = Zero::to_float(zeros[column]);
      group.zero_high[column] = Element::pack(zero, zero);
      float rest = zero - Element::to_float(uint16_t(group.zero_high[column]));
      group.zero_low[column] = Element::pack(rest, rest);
    }
  }
  return group;
}

// One magic-numbered pair of codes to a pair of weights of column 2g + kColumn; unscaled, q - zero, for kernels that
// scale their float32 sums instead.
template <class Element, class Zero, bool kScaled, int kColumn>
__device__ __forceinline__ uint32_t to_weights(uint32_t magic, const GroupScale<Element, Zero>& group) {
  constexpr uint32_t factor = !Element::kIsHalf ? detail::kBfloat16Quarter
                              : kColumn == 0    ? detail::kHalfQuarter
                                                : detail::kHalfSixtyFourth;
  uint32_t centred;
  if constexpr (!kIsFloatZero<Zero>) {
    centred = Element::fma2(magic, factor, group.addend[kColumn]);
  } else {
    centred = Element::sub2(Element::fma2(magic, factor, detail::kMinusBase<Element, kColumn>),
                            group.zero_high[kColumn]);
    if constexpr (!cuda::std::is_same_v<Zero, Element>)
      centred = Element::sub2(centred, group.zero_low[kColumn]);
  }
  if constexpr (!kScaled) return centred;
  return Element::mul2(centred, kColumn == 0 ? broadcast_low(group.scale) : broadcast_high(group.scale));
}

// A thread's word of one of the four k16 steps of 64 k.
__device__ __forceinline__ uint32_t word_of(const uint4& words, int step) {
  return step == 0 ? words.x : step == 1 ? words.y : step == 2 ? words.z : words.w;
}

// The A fragment of one k16 step.
template <class Element, class Zero, bool kScaled>
__device__ __forceinline__ void dequantize(uint32_t word, const GroupScale<Element, Zero>& group,
                                           uint32_t (&fragment)[4]) {
  using detail::kMaskHigh;
  using detail::kMaskLow;
  if constexpr (cuda::std::is_same_v<Zero, NoZerosNormalised>) {
    const uint32_t rotated = rotate_right(word, 8);
    const uint32_t left = broadcast_low(group.scale), right = broadcast_high(group.scale);
    const uint32_t left_addend = broadcast_low(group.addend[0]),
                   right_addend = broadcast_high(group.addend[0]);
    fragment[0] = Element::fma2(word & kMaskLow, left, left_addend);
    fragment[1] = Element::fma2(word & kMaskHigh, right, right_addend);
    fragment[2] = Element::fma2(rotated & kMaskLow, left, left_addend);
    fragment[3] = Element::fma2(rotated & kMaskHigh, right, right_addend);
  } else if constexpr (Element::kIsHalf) {
    uint32_t rotated = rotate_right(word, 8);
    fragment[0] = to_weights<Element, Zero, kScaled, 0>(and_or(word, kMaskLow, detail::kHalfMagic), group);
    fragment[1] = to_weights<Element, Zero, kScaled, 1>(and_or(word, kMaskHigh, detail::kHalfMagic), group);
    fragment[2] = to_weights<Element, Zero, kScaled, 0>(and_or(rotated, kMaskLow, detail::kHalfMagic), group);
    fragment[3] =
        to_weights<Element, Zero, kScaled, 1>(and_or(rotated, kMaskHigh, detail::kHalfMagic), group);
  } else {
    fragment[0] =
        to_weights<Element, Zero, kScaled, 0>(and_or(word, kMaskLow, detail::kBfloat16Magic), group);
    fragment[1] = to_weights<Element, Zero, kScaled, 1>(
        and_or(rotate_right(word, 4), kMaskLow, detail::kBfloat16Magic), group);
    fragment[2] = to_weights<Element, Zero, kScaled, 0>(
        and_or(rotate_right(word, 8), kMaskLow, detail::kBfloat16Magic), group);
    fragment[3] = to_weights<Element, Zero, kScaled, 1>(
        and_or(rotate_right(word, 12), kMaskLow, detail::kBfloat16Magic), group);
  }
}

}  // namespace w4a16
