// One new query per sequence against its cache, which is split into parts of DECODE_KEYS keys, counted from the
// sequence's first: what a part holds depends on nothing but the sequence. A second kernel joins the parts in order.
#include "values.cuh"
#include "reductions.cuh"

#define DECODE_KEYS 256
#define DECODE_THREADS 256
// Query heads of a group that a block takes at once.
#define DECODE_HEADS 8
// Lanes that share one key's products.
#define DECODE_LANES 8

// The part of `parts` per head of [batch, heads, parts, 2 + d]: maximum, sum, weighted values.
// Grid: parts, key-value heads · ⌈group / 8⌉, sequences.
template <class T>
__device__ __forceinline__ void decode(const T *q, const T *keys, const T *values, const u32 *lengths, int capacity,
                                       int heads, int group, int d, float scale, int window, float cap, float *parts,
                                       float (*weights)[DECODE_KEYS]) {
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, sequence = blockIdx.z;
  int rounds = (group + DECODE_HEADS - 1) / DECODE_HEADS;
  int kv_head = blockIdx.y / rounds, from_head = blockIdx.y % rounds * DECODE_HEADS;
  int here = min(DECODE_HEADS, group - from_head), kv_width = heads / group * d;
  int length = lengths[sequence], start = blockIdx.x * DECODE_KEYS;
  int first = max(start, window < length ? length - window : 0), end = min(length, start + DECODE_KEYS);
  if (first >= end) return;
  u64 cache = (u64)sequence * capacity * kv_width + kv_head * d;
  int head = kv_head * group + from_head;
  const T *query = q + ((u64)sequence * heads + head) * d;

  for (int base = first + warp * (32 / DECODE_LANES); base < end; base += DECODE_THREADS / DECODE_LANES) {
    int key = base + lane / DECODE_LANES, part = lane % DECODE_LANES;
    bool present = key < end;
    const T *row = keys + cache + (u64)(present ? key : base) * kv_width;
    for (int h = 0; h < here; h++) {
      float sum = 0;
      for (int at = part; at < d; at += DECODE_LANES) sum = fmaf(load_one(query + h * d + at), load_one(row + at), sum);
#pragma unroll
      for (int step = DECODE_LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      float score = sum * scale;
      if (cap > 0) score = cap * tanhf(score / cap);
      if (present && part == 0) weights[h][key - start] = score;
    }
  }
  __syncthreads();
  u64 part_width = 2 + d;
  float *part = parts + (((u64)sequence * heads + head) * gridDim.x + blockIdx.x) * part_width;
  u64 next_head = gridDim.x * part_width;
  for (int h = warp; h < here; h += DECODE_THREADS / 32) {
    float top = -infinite();
    for (int key = first + lane; key < end; key += 32) top = fmaxf(top, weights[h][key - start]);
    top = warp_max(top);
    float sum = 0;
    for (int key = first + lane; key < end; key += 32) {
      float weight = expf(weights[h][key - start] - top);
      weights[h][key - start] = weight;
      sum += weight;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      part[h * next_head] = top;
      part[h * next_head + 1] = sum;
    }
  }
  __syncthreads();
  for (int at = threadIdx.x; at < d; at += DECODE_THREADS) {
    float sums[DECODE_HEADS];
#pragma unroll
    for (int h = 0; h < DECODE_HEADS; h++) sums[h] = 0;
    for (int key = first; key < end; key++) {
      float value = load_one(values + cache + (u64)key * kv_width + at);
#pragma unroll
      for (int h = 0; h < DECODE_HEADS; h++)
        if (h < here) sums[h] = fmaf(weights[h][key - start], value, sums[h]);
    }
#pragma unroll
    for (int h = 0; h < DECODE_HEADS; h++)
      if (h < here) part[h * next_head + 2 + at] = sums[h];
  }
}

#define ATTENTION_DECODE(T)                                                                                      \
  extern "C" __global__ void __launch_bounds__(DECODE_THREADS)                                                         \
      attention_decode_##T(const T *q, const T *keys, const T *values, const u32 *lengths, int capacity, int heads, int group, int d,  \
           float scale, int window, float cap, float *parts) {                                                         \
    __shared__ float weights[DECODE_HEADS][DECODE_KEYS];                                                               \
    decode<T>(q, keys, values, lengths, capacity, heads, group, d, scale, window, cap, parts, weights);                \
  }                                                                                                                    \
  KERNEL_REGISTER(attention_decode_##T)
FOR_ACTIVATIONS(ATTENTION_DECODE)

// Grid: heads, sequences. Takes what `attention_decode` left of the parts that hold keys, in order.
template <class T>
__device__ __forceinline__ void join(const float *parts, const u32 *lengths, int count, int heads, int d, int window,
                                     T *out) {
  int head = blockIdx.x, sequence = blockIdx.y, length = lengths[sequence];
  int first = window < length ? (length - window) / DECODE_KEYS : 0;
  int end = (length + DECODE_KEYS - 1) / DECODE_KEYS;
  u64 part_width = 2 + d, row = (u64)sequence * heads + head;
  const float *part = parts + row * count * part_width;
  float top = -infinite(), sum = 0;
  for (int at = first; at < end; at++) top = fmaxf(top, part[at * part_width]);
  for (int at = first; at < end; at++)
    sum = fmaf(expf(part[at * part_width] - top), part[at * part_width + 1], sum);
  for (int column = threadIdx.x; column < d; column += DECODE_THREADS) {
    float taken = 0;
    for (int at = first; at < end; at++)
      taken = fmaf(expf(part[at * part_width] - top), part[at * part_width + 2 + column], taken);
    store_one(out + row * d + column, taken / sum);
  }
}

#define ATTENTION_DECODE_JOIN(T)                                                                                 \
  extern "C" __global__ void __launch_bounds__(DECODE_THREADS)                                                         \
      attention_decode_join_##T(const float *parts, const u32 *lengths, int count, int heads, int d, int window, T *out) {                  \
    join<T>(parts, lengths, count, heads, d, window, out);                                                             \
  }                                                                                                                    \
  KERNEL_REGISTER(attention_decode_join_##T)
FOR_ACTIVATIONS(ATTENTION_DECODE_JOIN)
