// From a sum to a result: activation(alpha * sum + bias), rounded once, for two neighbouring columns.
#pragma once

#include "numeric.cuh"
#include "params.cuh"

namespace w4a16 {

enum class Activation { kNone, kGelu, kGeluTanh, kSilu, kRelu };

// erfc(z) / 2 for z >= 0 as t exp(P(t) - z^2) / 2 with t = 1 / (1 + z / 2), the form of Numerical Recipes' erfcc; P was
// fitted here (least squares in Chebyshev's basis; gelu then errs by 4e-7 |x| at most). 1 + erff cancels in the tail.
__device__ __forceinline__ float half_erfc(float z) {
  const float t = __fdividef(1.0f, 1.0f + 0.5f * z);
  float p = 0.0611093491f;
  p = p * t - 0.470533282f;
  p = p * t + 1.30199289f;
  p = p * t - 1.58691192f;
  p = p * t + 0.720676243f;
  p = p * t - 0.181690052f;
  p = p * t + 0.425895035f;
  p = p * t + 0.994750738f;
  p = p * t - 1.26528919f;
  return 0.5f * t * __expf(p - z * z);
}

template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kActivation == Activation::kGelu) {
    const float tail = half_erfc(fabsf(x) * 0.70710678f);
    return x * (x < 0.0f ? tail : 1.0f - tail);
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)), which does not cancel.
    return x / (1.0f + __expf(-1.59576912160573071f * (x + 0.044715f * x * x * x)));
  } else if constexpr (kActivation == Activation::kSilu) {
    return x / (1.0f + __expf(-x));
  } else if constexpr (kActivation == Activation::kRelu) {
    return x < 0.0f ? 0.0f : x;  // NaN stays NaN
  } else {
    return x;
  }
}

// What two neighbouring columns add to their sums, as pairs of 16-bit floats. Loaded ahead of the sums where that can be:
// the wait for memory is as long as half an epilogue.
template <class Config>
struct ColumnPair {
  uint32_t bias;           // of Config::Element
  uint32_t normalised_by;  // bfloat16

  // `column`, the left one, is even.
  __device__ __forceinline__ static ColumnPair load(const Params& params, int column) {
    ColumnPair pair = {0, 0};
    if (params.bias != nullptr) {
      const auto* bias = static_cast<const uint16_t*>(params.bias) + column;
      if (column < params.n) pair.bias = __ldg(bias);
      if (column + 1 < params.n) pair.bias |= uint32_t(__ldg(bias + 1)) << 16;
    }
    if (kNormalised<Config> && column < params.n)
      pair.normalised_by = __ldg(params.normalised_by + column / 2);
    return pair;
  }
};

template <class Config>
struct Finish {
  using Element = typename Config::Element;
  using Out = typename Config::Out;
  using OutStorage = typename Out::Storage;

  const Params& params;
  const int column;  // the left one
  float bias[2];
  float factor[2];

  __device__ __forceinline__ Finish(const Params& params, int column, const ColumnPair<Config>& pair)
      : params(params), column(column) {
    bias[0] = Element::to_float(uint16_t(pair.bias));
    bias[1] = Element::to_float(uint16_t(pair.bias >> 16));
    factor[0] = params.alpha;
    factor[1] = params.alpha;
    if constexpr (kNormalised<Config>) {
      factor[0] *= Bfloat16::to_float(uint16_t(pair.normalised_by));
      factor[1] *= Bfloat16::to_float(uint16_t(pair.normalised_by >> 16));
    }
  }

  // Both columns' results into a pair's place in shared memory.
  __device__ __forceinline__ void put(void* target, float low, float high) const {
    put_pair(target, value(low, 0), value(high, 1));
  }

  // Straight to `out`.
  __device__ __forceinline__ void store(int token, float low, float high) const {
    if (column >= params.n) return;
    OutStorage* target = static_cast<OutStorage*>(params.out) + int64_t(token) * params.out_stride + column;
    low = value(low, 0);
    high = value(high, 1);
    if (params.out_aligned) {  // so n is even, and pairs are aligned
      put_pair(target, low, high);
    } else {
      put_one(target, low);
      if (column + 1 < params.n) put_one(target + 1, high);
    }
  }

 private:
  __device__ __forceinline__ float value(float sum, int right) const {
    return activate<Config::kActivation>(factor[right] * sum + bias[right]);
  }

  __device__ __forceinline__ static void put_pair(void* target, float low, float high) {
    if constexpr (cuda::std::is_same_v<Out, Float>) {
      *static_cast<float2*>(target) = make_float2(low, high);
    } else {
      *static_cast<uint32_t*>(target) = Out::pack(low, high);
    }
  }

  __device__ __forceinline__ static void put_one(OutStorage* target, float value) {
    if constexpr (cuda::std::is_same_v<Out, Float>) {
      *target = value;
    } else {
      *target = OutStorage(Out::pack(value, 0.0f));
    }
  }
};

}  // namespace w4a16
