// W4A16 for the fewest tokens, where time is the reading of weights: every byte straight from memory to registers.
//
//   weights n   16 kTiles columns a CTA, all of k; tokens m: kTileM (at most 16) a CTA
//   warps       split k: warp w takes the blocks of 128 k  w, w + kWarps, w + 2 kWarps, ...
//   codes       two 16-byte loads a lane bring 16 columns x 128 k in fragment order; kStages blocks are in flight
//   activations by cp.async into the warp's own ring in shared memory, by ldmatrix into mma.sync's B fragments
//   scales      a lane loads those of one group of a block, lane 4 g + c of group c % groups, and shows its neighbours
//   mma.sync    m16n8k16 on q - zero; the float32 sum of each group is multiplied by its scale. With float zeros on q,
//               and the zero times the sum of the activations is taken away (by one more mma.sync, with ones)
//   reduction   one __syncthreads; sums are added in the order of warps, so the bits are the same every time
//
// The first instructions are the loads of weights; activations wait for the kernels before this one.
//
// A configuration is a struct of constants, which cupy_w4a16/_kernels.py writes. That of a CTA with 32 columns and two
// warpgroups, for symmetric float16 weights:
//
//   struct Config {
//     using Element = Half;                     // of activations, scales and bias: Half or Bfloat16
//     using Zero = NoZeros;                     // or Uint8, Int32, Float, Element's
//     using Out = Half;                         // of results: Element's or Float
//     static constexpr int kGroupSize = 128;    // k of a group: 32, 64, or 128 for that and more
//     static constexpr int kTileM = 8;          // tokens of a CTA: 2, 4, 8 or 16
//     static constexpr int kCtasPerSm = 1;      // CTAs that an SM's registers and shared memory are cut for
//     static constexpr Activation kActivation = Activation::kNone;  // finish.cuh has them
//     static constexpr int kSmemBytes = 43008;  // bytes of DecodeStorage
//     static constexpr int kTiles = 2;          // tiles of 16 columns (weights) of a CTA
//     static constexpr int kWarps = 8;          // warps of a CTA; they split k
//     static constexpr int kStages = 2;         // blocks of 128 k that a warp has in flight
//   };
#pragma once

#include "cute/arch/mma_sm80.hpp"
#include "dequant.cuh"
#include "finish.cuh"
#include "params.cuh"
#include "ptx.cuh"

namespace w4a16 {

template <class Element>
struct MmaAtom : cute::SM80_16x8x16_F32F16F16F32_TN {};
template <>
struct MmaAtom<Bfloat16> : cute::SM80_16x8x16_F32BF16BF16F32_TN {};

// One load for two neighbours.
template <int kBytes>
struct PairType;
template <>
struct PairType<1> {
  using type = uint16_t;
};
template <>
struct PairType<2> {
  using type = uint32_t;
};
template <>
struct PairType<4> {
  using type = uint64_t;
};
template <class T>
using PairOf = typename PairType<sizeof(T)>::type;

template <class Config>
struct DecodeStorage {
  static constexpr int kWarps = Config::kWarps;
  static constexpr int kTokenTiles = (Config::kTileM + 7) / 8;  // of mma.sync's eight tokens
  static constexpr int kSumPitch = 20;  // floats from a token's sixteen columns to the next's: apart in banks

  // Activations of one warp, [block in flight][token][128 k], chunks of 16 bytes swizzled by the token.
  alignas(128) uint8_t activations[kWarps][Config::kStages][Config::kTileM * kBlockK * 2];
  // Sums of each warp, [m16 tile][token][column].
  alignas(128) float sums[kWarps][Config::kTiles][kTokenTiles * 8][kSumPitch];
};

template <class Config>
struct Decode {
  using Element = typename Config::Element;
  using Zero = typename Config::Zero;
  using ZeroStorage = typename Zero::Storage;
  using Storage = DecodeStorage<Config>;
  static constexpr bool kFloatZeros = kIsFloatZero<Zero>;
  using CodeZero = cuda::std::conditional_t<kFloatZeros, ZerosLater, Zero>;  // what is subtracted from codes
  static constexpr int kTiles = Config::kTiles;
  static constexpr int kTokenTiles = Storage::kTokenTiles;
  static constexpr int kStages = Config::kStages;
  static constexpr int kWarps = Config::kWarps;
  static constexpr int kSteps = kBlockK / 16;
  static constexpr int kGroups = kStageGroups<Config>;
  static constexpr int kGroupSteps = kSteps / kGroups;

  // One block's weights in flight: what a lane loads for 128 k of each m16 tile. Of the groups, one.
  struct Weights {
    uint4 codes[kTiles][2];
    uint32_t scales[kTiles];
    PairOf<ZeroStorage> zeros[kTiles];
  };

  // A C fragment of m16n8k16 for each m16 tile and eight tokens.
  using Sums = float[kTiles][kTokenTiles][4];

  const Params& params;
  Storage& smem;
  const int warp, lane;
  const int column_pair;  // lane / 4, of the eight in each m16 tile
  const int token_pair;   // lane % 4, of the four in each eight tokens
  const int first_column, first_token;

  __device__ __forceinline__ Decode(const Params& params, Storage& smem)
      : params(params),
        smem(smem),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        column_pair(lane / 4),
        token_pair(lane % 4),
        first_column(blockIdx.x % tiles_n(params) * kTiles * 16),
        first_token(blockIdx.x / tiles_n(params) * Config::kTileM) {}

  __device__ __forceinline__ void run() {
    const int k_blocks = ceil_div(params.k, kBlockK);
    const int count = warp < k_blocks ? ceil_div(k_blocks - warp, kWarps) : 0;
    Weights weights[kStages];
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      if (stage < count) load_weights(weights[stage], warp + stage * kWarps);
    }
    launch_dependents();
    wait_for_dependencies();
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      if (stage < count) copy_activations(stage, warp + stage * kWarps);
      commit_copies();
    }

    Sums sums = {};
    for (int first = 0; first < count; first += kStages) {
#pragma unroll
      for (int stage = 0; stage < kStages; ++stage) {
        const int i = first + stage;
        if (i >= count) break;
        wait_for_copies<kStages - 1>();
        __syncwarp();
        multiply(sums, weights[stage], stage);
        __syncwarp();  // all lanes have read the stage
        if (i + kStages < count) {
          load_weights(weights[stage], warp + (i + kStages) * kWarps);
          copy_activations(stage, warp + (i + kStages) * kWarps);
        }
        commit_copies();
      }
    }
    leave(sums);
    __syncthreads();
    add_and_store();
  }

 private:
  __device__ __forceinline__ static int tiles_n(const Params& params) {
    return ceil_div(params.n, kTiles * 16);
  }

  __device__ __forceinline__ void load_weights(Weights& weights, int k_block) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int column = first_column + tile * 16;
      const uint8_t* codes = params.b_packed + int64_t(column / kBlockN) * params.b_row_bytes +
                             int64_t(k_block) * kBlockBytes + column % kBlockN / 16 * kTileBytes + lane * 16;
      weights.codes[tile][0] = load_once(codes);
      weights.codes[tile][1] = load_once(codes + kTileBytes / 2);
      load_group(weights, tile, k_block, column + column_pair * 2);
    }
  }

  __device__ __forceinline__ void load_group(Weights& weights, int tile, int k_block, int column) const {
    const int64_t row = group_row<Config>(params, k_block, lane % kGroups);
    const auto* scales = static_cast<const uint16_t*>(params.scales) + row * params.scales_stride + column;
    const auto* zeros = static_cast<const ZeroStorage*>(params.zeros) + row * params.zeros_stride + column;
    const bool left = column < params.n;
    if (params.aligned_groups) {  // and n is even: both columns with one load
      if (!left) return;
      weights.scales[tile] = load_ahead(scales);
      if constexpr (kHasZeros<Config>) {
        weights.zeros[tile] = __ldg(reinterpret_cast<const PairOf<ZeroStorage>*>(zeros));
      }
    } else {
      const bool right = column + 1 < params.n;
      weights.scales[tile] =
          (left ? uint32_t(__ldg(scales)) : 0) | (right ? uint32_t(__ldg(scales + 1)) << 16 : 0);
      if constexpr (kHasZeros<Config>) {
        const ZeroStorage pair[2] = {left ? __ldg(zeros) : ZeroStorage(0),
                                     right ? __ldg(zeros + 1) : ZeroStorage(0)};
        memcpy(&weights.zeros[tile], pair, sizeof(pair));
      }
    }
  }

  // 128 k of every token: sixteen chunks a token, two tokens a warp at once; what lies past m or k becomes zero.
  __device__ __forceinline__ void copy_activations(int stage, int k_block) const {
    const int chunk = lane % 16;
    const int k = k_block * kBlockK + chunk * 8;
    const int left = min(max(params.k - k, 0), 8);
#pragma unroll
    for (int i = 0; i < Config::kTileM; i += 2) {
      const int token = i + lane / 16;
      const bool exists = first_token + token < params.m && left > 0;
      const uint8_t* source = params.a + int64_t(first_token + token) * params.a_row_bytes + int64_t(k) * 2;
      copy_async(chunk_address(stage, token, chunk), exists ? source : params.a, exists ? left * 2 : 0);
    }
  }

  __device__ __forceinline__ uint32_t chunk_address(int stage, int token, int chunk) const {
    return cute::cast_smem_ptr_to_uint(smem.activations[warp][stage]) + token * kBlockK * 2 +
           (chunk ^ token % 8) * 16;
  }

  // What the lane that loaded group `i` holds; `value` itself where there is one group.
  template <class T>
  __device__ __forceinline__ T of_group(T value, int i) const {
    return kGroups == 1 ? value : T(__shfl_sync(~0u, value, i, 4));
  }

  __device__ __forceinline__ void get_zeros(ZeroStorage (&zeros)[2], const Weights& weights, int tile,
                                            int i) const {
    const auto pair = of_group(weights.zeros[tile], i);
    memcpy(zeros, &pair, sizeof(pair));
  }

  __device__ __forceinline__ void multiply(Sums& sums, const Weights& weights, int stage) const {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      if (i > 0) __syncwarp();  // or ptxas spills: it would load the activations of all groups first
      GroupScale<Element, CodeZero> scales[kTiles];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        ZeroStorage zeros[2];
        if constexpr (kIsIntegerZero<Zero>) get_zeros(zeros, weights, tile, i);
        scales[tile] = make_group_scale<Element, CodeZero>(of_group(weights.scales[tile], i), zeros);
      }
      Sums parts = {};
      float activation_sums[kTokenTiles][4] = {};
#pragma unroll
      for (int step = i * kGroupSteps; step < (i + 1) * kGroupSteps; step += 2) {
        multiply_two_steps(parts, activation_sums, weights, scales, stage, step);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if constexpr (kFloatZeros) {
          ZeroStorage zeros[2];
          get_zeros(zeros, weights, tile, i);
          subtract_zeros(parts[tile], activation_sums, zeros);
        }
        add_scaled(sums[tile], parts[tile], scales[tile].scale);
      }
    }
  }

  __device__ __forceinline__ void multiply_two_steps(Sums& parts, float (&activation_sums)[kTokenTiles][4],
                                                     const Weights& weights,
                                                     const GroupScale<Element, CodeZero> (&scales)[kTiles],
                                                     int stage, int step) const {
    // B fragments of two k16 steps with one ldmatrix: lane l gives the row of token l % 8, chunk l / 8. Tokens past
    // kTileM are copies of others, whose sums nobody takes.
    uint32_t activations[kTokenTiles][2][2];
#pragma unroll
    for (int eight = 0; eight < kTokenTiles; ++eight) {
      const int token = eight * 8 + lane % min(8, Config::kTileM);
      auto& two = activations[eight];
      load_matrices(chunk_address(stage, token, step * 2 + lane / 8), two[0][0], two[0][1], two[1][0],
                    two[1][1]);
    }
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      if constexpr (kFloatZeros) {
        constexpr uint32_t kOnes[4] = {Element::kOnes, Element::kOnes, Element::kOnes, Element::kOnes};
        multiply_step(activation_sums, kOnes, activations, odd);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint32_t word = word_of(weights.codes[tile][step / 4], (step + odd) % 4);
        uint32_t w[4];
        dequantize<Element, CodeZero, false>(word, scales[tile], w);
        multiply_step(parts[tile], w, activations, odd);
      }
    }
  }

  __device__ __forceinline__ static void multiply_step(float (&sums)[kTokenTiles][4], const uint32_t (&w)[4],
                                                       const uint32_t (&activations)[kTokenTiles][2][2],
                                                       int odd) {
#pragma unroll
    for (int eight = 0; eight < kTokenTiles; ++eight) {
      auto& c = sums[eight];
      const auto& b = activations[eight][odd];
      MmaAtom<Element>::fma(c[0], c[1], c[2], c[3], w[0], w[1], w[2], w[3], b[0], b[1], c[0], c[1], c[2],
                            c[3]);
    }
  }

  // parts -= zeros x the sums of the activations, which are the same in both rows of the fragment.
  __device__ __forceinline__ static void subtract_zeros(float (&parts)[kTokenTiles][4],
                                                        const float (&activation_sums)[kTokenTiles][4],
                                                        const ZeroStorage (&zeros)[2]) {
    const float low = Zero::to_float(zeros[0]), high = Zero::to_float(zeros[1]);
#pragma unroll
    for (int eight = 0; eight < kTokenTiles; ++eight) {
      parts[eight][0] -= low * activation_sums[eight][0];
      parts[eight][1] -= low * activation_sums[eight][1];
      parts[eight][2] -= high * activation_sums[eight][0];
      parts[eight][3] -= high * activation_sums[eight][1];
    }
  }

  // sums += parts x the scales of the columns 2g (fragment row g) and 2g + 1 (row g + 8).
  __device__ __forceinline__ static void add_scaled(float (&sums)[kTokenTiles][4],
                                                    const float (&parts)[kTokenTiles][4], uint32_t scales) {
    const float low = Element::to_float(uint16_t(scales)), high = Element::to_float(uint16_t(scales >> 16));
#pragma unroll
    for (int eight = 0; eight < kTokenTiles; ++eight) {
      sums[eight][0] += parts[eight][0] * low;
      sums[eight][1] += parts[eight][1] * low;
      sums[eight][2] += parts[eight][2] * high;
      sums[eight][3] += parts[eight][3] * high;
    }
  }

  __device__ __forceinline__ void leave(const Sums& sums) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int eight = 0; eight < kTokenTiles; ++eight) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          *reinterpret_cast<float2*>(
              &smem.sums[warp][tile][eight * 8 + token_pair * 2 + odd][column_pair * 2]) =
              make_float2(sums[tile][eight][odd], sums[tile][eight][2 + odd]);
        }
      }
    }
  }

  __device__ __forceinline__ void add_and_store() const {
    constexpr int kPairs = kTiles * 8;
    for (int i = threadIdx.x; i < kPairs * Config::kTileM; i += kWarps * 32) {
      const int token = i / kPairs, tile = i % kPairs / 8, pair = i % 8;
      if (first_token + token >= params.m) return;
      float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int from = 0; from < kWarps; ++from) {
        const float2 part = *reinterpret_cast<const float2*>(&smem.sums[from][tile][token][pair * 2]);
        sum.x += part.x;
        sum.y += part.y;
      }
      const int column = first_column + tile * 16 + pair * 2;
      const Finish<Config> finish(params, column, ColumnPair<Config>::load(params, column));
      finish.store(first_token + token, sum.x, sum.y);
    }
  }
};

template <class Config>
__device__ __forceinline__ void decode(const Params& params) {
  static_assert(sizeof(DecodeStorage<Config>) == Config::kSmemBytes, "cupy_w4a16/_smem.py counts otherwise");
  extern __shared__ __align__(128) uint8_t shared[];
  Decode<Config>(params, *reinterpret_cast<DecodeStorage<Config>*>(shared)).run();
}

}  // namespace w4a16

#define W4A16_DECODE(name, Config)                                                            \
  extern "C" __global__ void __launch_bounds__(Config::kWarps * 32, Config::kCtasPerSm) name( \
      const __grid_constant__ w4a16::Params params) {                                         \
    w4a16::decode<Config>(params);                                                            \
  }
