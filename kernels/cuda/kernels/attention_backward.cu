// Gradients of attention over packed segments in f32, without atomics: scores are computed again from the kept logs of
// the denominators, once by blocks that own keys (for dk and dv) and once by blocks that own queries (for dq).
//
// `dq` carries, until it is written, the dot product of dout and out of each row and head, in the first element of the
// head: the columns of dq from 0 on must be the last ones to be computed.
#include "attention_tiles.cuh"

// Where the dot product of a row and head is, as f32 in place of the first elements of dq.
template <class T> __device__ __forceinline__ float *dot_place(T *dq, u64 index, int d) {
  return (float *)(dq + index * d);
}
template <class T> __device__ __forceinline__ const float *dot_place(const T *dq, u64 index, int d) {
  return (const float *)(dq + index * d);
}

// One warp per row and head. Grid: row-heads / 8. Heads in sixteen bits have an even number of elements.
template <class T>
__device__ __forceinline__ void delta(const T *out, const T *dout, u64 count, int d, T *dq) {
  u64 index = (u64)blockIdx.x * 8 + threadIdx.x / 32;
  if (index >= count) return;
  float sum = 0;
  for (int at = threadIdx.x & 31; at < d; at += 32)
    sum = fmaf(load_one(out + index * d + at), load_one(dout + index * d + at), sum);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if ((threadIdx.x & 31) == 0) *dot_place(dq, index, d) = sum;
}

#define ATTENTION_DELTA(T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      attention_delta_##T(const T *out, const T *dout, u64 count, int d, T *dq) {                                      \
    delta<T>(out, dout, count, d, dq);                                                                                 \
  }                                                                                                                    \
  KERNEL_REGISTER(attention_delta_##T)
FOR_ACTIVATIONS(ATTENTION_DELTA)

// The probability of a score, and its gradient before the cap and the scale: both zero where nothing is seen.
struct Slopes {
  float p, ds;
  __device__ __forceinline__ Slopes(const AttentionLayer &layer, float sum, float gradient, float lse, float delta,
                                    bool seen) {
    float slope, score = cap_score(layer, sum, slope);
    p = seen ? expf(score - lse) : 0;
    ds = seen ? p * (gradient - delta) * slope * layer.scale : 0;
  }
};

// dk and dv of 64 keys of a key-value head, columns `first` to `first + 64 · CHUNKS`: over the heads of the group, and
// over blocks of queries, in ascending order. Tiles are [key, query].
template <int CHUNKS, class T>
__device__ __forceinline__ void key_gradients(const T *q, const T *k, const T *v, const float *lse, const T *dout,
                                              const T *delta, const u32 *starts, int segments,
                                              const AttentionLayer &layer, int first, T *dk, T *dv,
                                              float *stage, float *weights, int *place) {
  SegmentTile tile = find_tile(starts, segments, ATTENTION_TILE, blockIdx.x, place);
  if (tile.length == 0) return;
  int kv_head = blockIdx.y, d = layer.d, width = layer.heads * d, key_width = layer.heads / layer.group * d;
  int here = min(ATTENTION_TILE, tile.length - tile.first);
  HeadRows<T> keys(k, tile.segment + tile.first, here, key_width, kv_head, d);
  HeadRows<T> values(v, tile.segment + tile.first, here, key_width, kv_head, d);
  float key_sums[CHUNKS][4][4], value_sums[CHUNKS][4][4];
#pragma unroll
  for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) key_sums[chunk][i][j] = value_sums[chunk][i][j] = 0;
  // The last query that sees the last key, at most.
  int end = layer.window < tile.length ? min(tile.length, tile.first + here - 1 + layer.window) : tile.length;
  for (int head = kv_head * layer.group; head < (kv_head + 1) * layer.group; head++) {
    for (int start = tile.first; start < end; start += ATTENTION_TILE) {
      int rows = min(ATTENTION_TILE, tile.length - start);
      HeadRows<T> queries(q, tile.segment + start, rows, width, head, d);
      HeadRows<T> gradients(dout, tile.segment + start, rows, width, head, d);
      float scores[4][4], slopes[4][4];
      rows_by_rows<T>(keys, queries, d, stage, scores);
      rows_by_rows<T>(values, gradients, d, stage, slopes);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int query = score_column(j);
        u64 row = (u64)(tile.segment + start + query) * layer.heads + head;
        float log = query < rows ? lse[row] : 0, dot = query < rows ? *dot_place(delta, row, d) : 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          bool seen = query < rows && sees(layer, start + query, tile.first + score_row(i));
          Slopes at(layer, scores[i][j], slopes[i][j], log, dot, seen);
          weights[score_row(i) * ATTENTION_PITCH + query] = at.p;
          slopes[i][j] = at.ds;
        }
      }
      weights_by_rows<CHUNKS, T>(weights, gradients, first, d, stage, value_sums);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) weights[score_row(i) * ATTENTION_PITCH + score_column(j)] = slopes[i][j];
      weights_by_rows<CHUNKS, T>(weights, queries, first, d, stage, key_sums);
    }
  }
  float factors[4] = {1, 1, 1, 1};
  store_rows<CHUNKS, T>(dk, tile.segment + tile.first, here, key_width, kv_head, d, first, key_sums, factors);
  store_rows<CHUNKS, T>(dv, tile.segment + tile.first, here, key_width, kv_head, d, first, value_sums, factors);
}

// dq of 64 queries of a head, over blocks of keys in ascending order.
template <int CHUNKS, class T>
__device__ __forceinline__ void query_gradients(const T *q, const T *k, const T *v, const float *lse, const T *dout,
                                                const u32 *starts, int segments, const AttentionLayer &layer,
                                                int first, T *dq, float *stage,
                                                float *weights, int *place) {
  SegmentTile tile = find_tile(starts, segments, ATTENTION_TILE, gridDim.x - 1 - blockIdx.x, place);
  if (tile.length == 0) return;
  int head = blockIdx.y, d = layer.d, width = layer.heads * d, key_width = layer.heads / layer.group * d;
  int here = min(ATTENTION_TILE, tile.length - tile.first);
  HeadRows<T> queries(q, tile.segment + tile.first, here, width, head, d);
  HeadRows<T> gradients(dout, tile.segment + tile.first, here, width, head, d);
  float sums[CHUNKS][4][4], logs[4], dots[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u64 row = (u64)(tile.segment + tile.first + score_row(i)) * layer.heads + head;
    logs[i] = score_row(i) < here ? lse[row] : 0;
    dots[i] = score_row(i) < here ? *dot_place(dq, row, d) : 0;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
      for (int j = 0; j < 4; j++) sums[chunk][i][j] = 0;
  }
  int lowest = tile.first - layer.window + 1;
  lowest = lowest > 0 ? lowest / ATTENTION_TILE * ATTENTION_TILE : 0;
  for (int start = lowest; start < tile.first + here; start += ATTENTION_TILE) {
    int count = min(ATTENTION_TILE, tile.length - start);
    HeadRows<T> keys(k, tile.segment + start, count, key_width, head / layer.group, d);
    HeadRows<T> values(v, tile.segment + start, count, key_width, head / layer.group, d);
    float scores[4][4], slopes[4][4];
    rows_by_rows<T>(queries, keys, d, stage, scores);
    rows_by_rows<T>(gradients, values, d, stage, slopes);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        bool seen = score_row(i) < here && sees(layer, tile.first + score_row(i), start + score_column(j));
        Slopes at(layer, scores[i][j], slopes[i][j], logs[i], dots[i], seen);
        weights[score_row(i) * ATTENTION_PITCH + score_column(j)] = at.ds;
      }
    weights_by_rows<CHUNKS, T>(weights, keys, first, d, stage, sums);
  }
  float factors[4] = {1, 1, 1, 1};
  store_rows<CHUNKS, T>(dq, tile.segment + tile.first, here, width, head, d, first, sums, factors);
}

// Grid: tiles (at most tokens / 64 + segments), key-value heads.
#define ATTENTION_KEY_GRADIENTS(name, CHUNKS, T)                                                                          \
  extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1)                                                      \
      name(const T *q, const T *k, const T *v, const float *lse, const T *dout, const T *delta,    \
           const u32 *starts, int segments, int heads, int group, int d, float scale, int window, float cap,           \
           int first, T *dk, T *dv) {                                                                          \
    __shared__ __align__(16) float stage[ATTENTION_STAGE];                                                             \
    __shared__ __align__(16) float weights[ATTENTION_TILE * ATTENTION_PITCH];                                          \
    __shared__ int place[3];                                                                                           \
    AttentionLayer layer = {heads, group, d, scale, window, cap};                                                      \
    key_gradients<CHUNKS, T>(q, k, v, lse, dout, delta, starts, segments, layer, first, dk, dv, stage, weights, place);   \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

// Grid: tiles (at most tokens / 64 + segments), heads.
#define ATTENTION_QUERY_GRADIENTS(name, CHUNKS, T)                                                                        \
  extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1)                                                      \
      name(const T *q, const T *k, const T *v, const float *lse, const T *dout, const u32 *starts,     \
           int segments, int heads, int group, int d, float scale, int window, float cap, int first, T *dq) {      \
    __shared__ __align__(16) float stage[ATTENTION_STAGE];                                                             \
    __shared__ __align__(16) float weights[ATTENTION_TILE * ATTENTION_PITCH];                                          \
    __shared__ int place[3];                                                                                           \
    AttentionLayer layer = {heads, group, d, scale, window, cap};                                                      \
    query_gradients<CHUNKS, T>(q, k, v, lse, dout, starts, segments, layer, first, dq, stage, weights, place);            \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define ATTENTION_GRADIENTS(T)                                                                                         \
  ATTENTION_KEY_GRADIENTS(attention_key_gradients_64_##T, 1, T)                                                        \
  ATTENTION_KEY_GRADIENTS(attention_key_gradients_128_##T, 2, T)                                                       \
  ATTENTION_QUERY_GRADIENTS(attention_query_gradients_64_##T, 1, T)                                                    \
  ATTENTION_QUERY_GRADIENTS(attention_query_gradients_128_##T, 2, T)
FOR_ACTIVATIONS(ATTENTION_GRADIENTS)
