// What the benchmark needs on the GPU beside the products it times: random numbers, plain weights, a comparison, a
// kernel that does nothing but read, and one that only waits. Written here rather than as CuPy expressions, which
// compile a kernel each.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace bench {

using Word = unsigned int;
using Index = long long;

__device__ Index thread_index() { return Index(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ Index thread_count() { return Index(gridDim.x) * blockDim.x; }

// splitmix64: the i-th number of a stream, in any order.
__device__ unsigned long long random_bits(unsigned long long seed, Index i) {
  unsigned long long x = seed + 0x9E3779B97F4A7C15ull * (i + 1);
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Uniform on (0, 1], 24 bits.
__device__ float uniform(unsigned long long bits) { return (float(bits >> 40) + 1.0f) * 0x1p-24f; }

template <class T>
__device__ T narrow(float x);
template <>
__device__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// Gaussian numbers, by Box and Muller.
template <class T>
__device__ void fill_normal(T* out, Index count, unsigned long long seed) {
  for (Index i = thread_index(); i < count; i += thread_count()) {
    unsigned long long bits = random_bits(seed, i);
    float radius = sqrtf(-2.0f * logf(uniform(bits)));
    out[i] = narrow<T>(radius * cospif(2.0f * uniform(bits << 24)));
  }
}

// Uniform between low and high; of either sign where both_signs is set.
template <class T>
__device__ void fill_uniform(T* out, Index count, unsigned long long seed, float low, float high,
                             int both_signs) {
  for (Index i = thread_index(); i < count; i += thread_count()) {
    unsigned long long bits = random_bits(seed, i);
    float x = low + (high - low) * uniform(bits);
    out[i] = narrow<T>(both_signs && (bits & 1) ? -x : x);
  }
}

// Packed codes to weights (q - zero) * scale, in the layout that cupy_w4a16/_pack.py describes; one word a thread.
// Element (k, n) goes to out[k * stride_k + n * stride_n].
template <class T, class Out>
__device__ void dequantize(const Word* words, const T* scales, const void* zeros, int zeros_are_float, int n,
                           int k, int group_rows, Out* out, Index stride_k, Index stride_n) {
  int blocks_k = (k + 127) / 128;
  Index count = Index((n + 63) / 64) * blocks_k * 1024;
  for (Index i = thread_index(); i < count; i += thread_count()) {
    int x = int(i % 1024), step = x % 4, lane = x / 4 % 32, half = x / 128 % 2, tile = x / 256;
    int first_k = int(i / 1024 % blocks_k) * 128 + half * 64 + step * 16 + lane % 4 * 2;
    int first_n = int(i / 1024 / blocks_k) * 64 + tile * 16 + lane / 4 * 2;
    Word nibbles = __funnelshift_r(words[i], words[i], 2);
    for (int j = 0; j < 8; ++j) {  // odd = j / 4, upper = j / 2 % 2, right = j % 2
      int row = first_k + j / 4 + j / 2 % 2 * 8, column = first_n + j % 2;
      if (row >= k || column >= n) continue;
      Index group = Index(row / group_rows) * n + column;
      float zero = 8;
      if (zeros)
        zero = zeros_are_float ? widen(((const T*)zeros)[group]) : ((const unsigned char*)zeros)[group];
      float q = float(nibbles >> (4 * j) & 15);
      out[row * stride_k + column * stride_n] = narrow<Out>((q - zero) * widen(scales[group]));
    }
  }
}

__device__ float block_sum(float x) {
  __shared__ float sums[8];
  for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int i = 0; i < 8; ++i) x += sums[i];
  return x;
}

// Of c (m, n) against expected: result[0] the largest mean square error of any tile of 64 x 64, result[1] the largest
// mean square of any tile of `expected`. 256 threads and one tile a block. A NaN wins: as bits it is above all numbers.
template <class T>
__device__ void compare(const T* c, const float* expected, int m, int n, Word* result) {
  int rows = min(64, m - int(blockIdx.y) * 64), columns = min(64, n - int(blockIdx.x) * 64);
  float error = 0, size = 0;
  for (int i = threadIdx.x; i < rows * columns; i += 256) {
    Index at = Index(blockIdx.y * 64 + i / columns) * n + blockIdx.x * 64 + i % columns;
    float x = expected[at], difference = widen(c[at]) - x;
    error += difference * difference;
    size += x * x;
  }
  error = block_sum(error) / (rows * columns);
  size = block_sum(size) / (rows * columns);
  if (threadIdx.x == 0) {
    atomicMax(result, __float_as_uint(error) & 0x7FFFFFFF);
    atomicMax(result + 1, __float_as_uint(size) & 0x7FFFFFFF);
  }
}

// Predicated rather than branched around, so that all loads of a thread are issued before the first is waited for.
__device__ uint4 load_if(bool wanted, const uint4* from) {
  uint4 v = make_uint4(0, 0, 0, 0);
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %5, 0; @p ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4]; }"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(from), "r"(int(wanted)));
  return v;
}

// Reads two arrays once, 16 bytes a load, kLoads loads of a thread in flight; `sink` is not written in practice.
template <int kLoads>
__device__ void read_cold(const uint4* first, Index first_count, const uint4* second, Index second_count,
                          Word* sink) {
  Index count = first_count + second_count, step = Index(blockDim.x) * kLoads;
  Word seen = 0;
  for (Index base = blockIdx.x * step; base < count; base += gridDim.x * step) {
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      Index at = base + i * Index(blockDim.x) + threadIdx.x;
      v[i] = load_if(at < count, at < first_count ? first + at : second + (at - first_count));
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) seen ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (seen == 0x5EED5EED) *sink = seen;
}

__device__ unsigned long long now_ns() {
  unsigned long long ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

}  // namespace bench

using bench::Index;
using bench::Word;

extern "C" __global__ void bench_fill_words(Word* out, Index count, unsigned long long seed, Word mask) {
  for (Index i = bench::thread_index(); i < count; i += bench::thread_count())
    out[i] = Word(bench::random_bits(seed, i)) & mask;
}

// One thread, asleep but for a look at the clock now and then, so that the GPU draws little power.
extern "C" __global__ void bench_rest(unsigned long long ns) {
  unsigned long long start = bench::now_ns();
  while (bench::now_ns() - start < ns) __nanosleep(10000);
}

#define BENCH_KERNELS_OF(name, T)                                                                           \
  extern "C" __global__ void bench_fill_normal_##name(T* out, Index count, unsigned long long seed) {       \
    bench::fill_normal(out, count, seed);                                                                   \
  }                                                                                                         \
  extern "C" __global__ void bench_fill_uniform_##name(T* out, Index count, unsigned long long seed,        \
                                                       float low, float high, int both_signs) {             \
    bench::fill_uniform(out, count, seed, low, high, both_signs);                                           \
  }                                                                                                         \
  extern "C" __global__ void bench_dequantize_##name##_to_float(                                            \
      const Word* words, const T* scales, const void* zeros, int zeros_are_float, int n, int k,             \
      int group_rows, float* out, Index stride_k, Index stride_n) {                                         \
    bench::dequantize(words, scales, zeros, zeros_are_float, n, k, group_rows, out, stride_k, stride_n);    \
  }                                                                                                         \
  extern "C" __global__ void bench_dequantize_##name(const Word* words, const T* scales, const void* zeros, \
                                                     int zeros_are_float, int n, int k, int group_rows,     \
                                                     T* out, Index stride_k, Index stride_n) {              \
    bench::dequantize(words, scales, zeros, zeros_are_float, n, k, group_rows, out, stride_k, stride_n);    \
  }

BENCH_KERNELS_OF(float16, __half)
BENCH_KERNELS_OF(bfloat16, __nv_bfloat16)

#define BENCH_COMPARE(name, T)                                                                     \
  extern "C" __global__ void bench_compare_##name(const T* c, const float* expected, int m, int n, \
                                                  Word* result) {                                  \
    bench::compare(c, expected, m, n, result);                                                     \
  }

BENCH_COMPARE(float16, __half)
BENCH_COMPARE(bfloat16, __nv_bfloat16)
BENCH_COMPARE(float32, float)

#define BENCH_READ(loads)                                                                           \
  extern "C" __global__ void __launch_bounds__(256, 32 / loads) bench_read_##loads(                 \
      const uint4* first, Index first_count, const uint4* second, Index second_count, Word* sink) { \
    bench::read_cold<loads>(first, first_count, second, second_count, sink);                        \
  }

BENCH_READ(4)
BENCH_READ(8)
BENCH_READ(16)
