// A decoder's steps between its linear layers, for one token: float16 in memory, float32 in registers.
//
// What changes from step to step, the tokens and the position, stands in device memory, so that one captured
// graph serves every step. decoder_kernels.py defines the sizes (HIDDEN, ...), and has the same steps in NumPy.

#include <cuda_fp16.h>

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr float kLowest = -3.4e38f;  // below every score; NVRTC has no INFINITY

__device__ float warp_sum(float x) {
  for (int distance = kWarp / 2; distance; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

__device__ float block_sum(float x) {
  __shared__ float parts[kWarp];
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < blockDim.x / kWarp; ++warp) sum += parts[warp];
  return sum;
}

extern "C" __global__ void embed(const int* tokens, const int* position, const __half* table, float* x,
                                 __half* update) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= HIDDEN) return;
  x[i] = 0;
  update[i] = table[size_t(tokens[*position]) * HIDDEN + i];
}

// One block.
extern "C" __global__ void add_norm(float* x, const __half* update, const float* weight, __half* a) {
  float squares = 0;
  for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) {
    x[i] += __half2float(update[i]);
    squares += x[i] * x[i];
  }
  const float scale = rsqrtf(block_sum(squares) / HIDDEN + EPSILON);
  for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) a[i] = __float2half(x[i] * scale * weight[i]);
}

// One block a head: first the query's heads, turned in place; then the key's, turned into the cache; then the
// value's, copied there. A thread has two numbers, which turn as a point of the plane does.
extern "C" __global__ void rotate(__half* qkv, const float* turns, const int* position, __half* keys,
                                  __half* values) {
  constexpr int kHalf = HEAD_SIZE / 2;
  const int head = blockIdx.x, i = threadIdx.x, at = *position;
  const __half* from = qkv + head * HEAD_SIZE;
  __half* to = qkv + head * HEAD_SIZE;
  if (head >= HEADS) to = keys + (size_t(head - HEADS) * MAX_TOKENS + at) * HEAD_SIZE;
  float cosine = turns[at * HEAD_SIZE + i], sine = turns[at * HEAD_SIZE + kHalf + i];
  if (head >= HEADS + KV_HEADS) {
    to = values + (size_t(head - HEADS - KV_HEADS) * MAX_TOKENS + at) * HEAD_SIZE;
    cosine = 1, sine = 0;
  }
  const float x = __half2float(from[i]), y = __half2float(from[kHalf + i]);
  to[i] = __float2half(x * cosine - y * sine);
  to[kHalf + i] = __float2half(y * cosine + x * sine);
}

// One block a head of the query. Each warp takes every kWarps-th position, with a softmax of its own that is
// scaled down whenever a larger score turns up (Milakov and Gimelshein, arXiv:1805.02867); then they are joined.
extern "C" __global__ void attend(const __half* qkv, const __half* keys, const __half* values,
                                  const int* position, __half* mixed) {
  constexpr int kWarps = ATTEND_THREADS / kWarp, kPerLane = HEAD_SIZE / kWarp;
  const int head = blockIdx.x, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const size_t cache_at = size_t(head / (HEADS / KV_HEADS)) * MAX_TOKENS * HEAD_SIZE;
  keys += cache_at, values += cache_at;

  float query[kPerLane], sum[kPerLane] = {}, total = 0, largest = kLowest;
  for (int i = 0; i < kPerLane; ++i) {
    query[i] = __half2float(qkv[head * HEAD_SIZE + lane + kWarp * i]) * rsqrtf(HEAD_SIZE);
  }
  for (int at = warp; at <= *position; at += kWarps) {
    float score = 0;
    for (int i = 0; i < kPerLane; ++i)
      score += query[i] * __half2float(keys[at * HEAD_SIZE + lane + kWarp * i]);
    score = warp_sum(score);
    const float larger = fmaxf(largest, score);
    const float shrink = expf(largest - larger), weight = expf(score - larger);
    largest = larger;
    total = total * shrink + weight;
    for (int i = 0; i < kPerLane; ++i) {
      sum[i] = sum[i] * shrink + weight * __half2float(values[at * HEAD_SIZE + lane + kWarp * i]);
    }
  }

  __shared__ float sums[kWarps][HEAD_SIZE], totals[kWarps], largests[kWarps];
  for (int i = 0; i < kPerLane; ++i) sums[warp][lane + kWarp * i] = sum[i];
  if (lane == 0) totals[warp] = total, largests[warp] = largest;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, largests[w]);
  for (int i = threadIdx.x; i < HEAD_SIZE; i += blockDim.x) {
    float above = 0, below = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float weight = expf(largests[w] - largest);  // 0 for a warp that had no position
      above += weight * sums[w][i];
      below += weight * totals[w];
    }
    mixed[head * HEAD_SIZE + i] = __float2half(above / below);
  }
}

extern "C" __global__ void gate(const __half* gate_up, __half* gated) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= MLP) return;
  const float x = __half2float(gate_up[i]);
  gated[i] = __float2half(x / (1 + expf(-x)) * __half2float(gate_up[MLP + i]));
}

// One block. Of equal logits the first wins; a token that is given already, one of the prompt, stays.
extern "C" __global__ void choose(const float* logits, int* tokens, int* position) {
  __shared__ float best[BLOCK_THREADS];
  __shared__ int best_at[BLOCK_THREADS];
  const int thread = threadIdx.x;
  best[thread] = kLowest, best_at[thread] = 0;
  for (int i = thread; i < VOCABULARY; i += blockDim.x) {
    if (logits[i] > best[thread]) best[thread] = logits[i], best_at[thread] = i;
  }
  for (int half = blockDim.x / 2; half; half /= 2) {
    __syncthreads();
    if (thread >= half) continue;
    const float other = best[thread + half];
    const int other_at = best_at[thread + half];
    if (other > best[thread] || (other == best[thread] && other_at < best_at[thread])) {
      best[thread] = other, best_at[thread] = other_at;
    }
  }
  if (thread == 0) {
    const int next = *position + 1;
    if (tokens[next] < 0) tokens[next] = best_at[0];
    *position = next;
  }
}
