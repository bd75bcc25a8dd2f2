// From a sum to a result: activation(alpha * sum + bias), rounded once, for two neighbouring columns.
#pragma once

#include "numeric.cuh"
#include "params.cuh"

namespace w4a16 {

enum class Activation { kNone, kGelu, kGeluTanh, kSilu, kRelu };

template <Activation kActivation>
__device__ __forceinline__ float activate(float x) {
  if constexpr (kActivation == Activation::kGelu) {
    return 0.5f * x *
           (1.0f + erff(x * 0.70710678118654752f));  // erfc would not cancel in the tail, but spills
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

template <class Config>
struct Finish {
  using Element = typename Config::Element;
  using Out = typename Config::Out;
  using OutStorage = typename Out::Storage;

  const Params& params;
  const int column;  // the left one
  float bias[2];

  __device__ __forceinline__ Finish(const Params& params, int column) : params(params), column(column) {
    bias[0] = load_bias(column);
    bias[1] = load_bias(column + 1);
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
  __device__ __forceinline__ float load_bias(int column) const {
    if (params.bias == nullptr || column >= params.n) return 0.0f;
    return Element::to_float(static_cast<const typename Element::Storage*>(params.bias)[column]);
  }

  __device__ __forceinline__ float value(float sum, int right) const {
    return activate<Config::kActivation>(params.alpha * sum + bias[right]);
  }

  __device__ __forceinline__ static void put_pair(void* target, float low, float high) {
    if constexpr (kSame<Out, Float>) {
      *static_cast<float2*>(target) = make_float2(low, high);
    } else {
      *static_cast<uint32_t*>(target) = Out::pack(low, high);
    }
  }

  __device__ __forceinline__ static void put_one(OutStorage* target, float value) {
    if constexpr (kSame<Out, Float>) {
      *target = value;
    } else {
      *target = OutStorage(Out::pack(value, 0.0f));
    }
  }
};

}  // namespace w4a16
