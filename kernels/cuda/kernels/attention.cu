// Causal attention over packed segments in f32, with a running maximum (Dao et al., "FlashAttention", 2022): a block of
// threads owns 64 query rows of one head, and scores exist for 64 keys at once.
#include "attention_tiles.cuh"

// The greatest (or the sum) over the sixteen threads that share a row.
__device__ __forceinline__ float row_max(float value) {
#pragma unroll
  for (int step = 8; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

__device__ __forceinline__ float row_sum(float value) {
#pragma unroll
  for (int step = 8; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Output columns `first` to `first + 64 · CHUNKS`; the log of the denominators with the first of them.
template <int CHUNKS, class T>
__device__ __forceinline__ void attend(const T *q, const T *k, const T *v, const u32 *starts, int segments,
                                       const AttentionLayer &layer, int first, T *out, float *lse, float *stage,
                                       float *weights, int *place) {
  // Later tiles see more keys, so they start first.
  SegmentTile tile = find_tile(starts, segments, ATTENTION_TILE, gridDim.x - 1 - blockIdx.x, place);
  if (tile.length == 0) return;
  int head = blockIdx.y, d = layer.d, width = layer.heads * d, key_width = layer.heads / layer.group * d;
  int here = min(ATTENTION_TILE, tile.length - tile.first);
  HeadRows<T> queries(q, tile.segment + tile.first, here, width, head, d);
  float tops[4], sums[4], taken[CHUNKS][4][4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    tops[i] = -infinite();
    sums[i] = 0;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
      for (int j = 0; j < 4; j++) taken[chunk][i][j] = 0;
  }
  int lowest = tile.first - layer.window + 1;
  lowest = lowest > 0 ? lowest / ATTENTION_TILE * ATTENTION_TILE : 0;
  for (int start = lowest; start < tile.first + here; start += ATTENTION_TILE) {
    int keys = min(ATTENTION_TILE, tile.length - start);
    HeadRows<T> key_rows(k, tile.segment + start, keys, key_width, head / layer.group, d);
    HeadRows<T> value_rows(v, tile.segment + start, keys, key_width, head / layer.group, d);
    float scores[4][4];
    rows_by_rows<T>(queries, key_rows, d, stage, scores);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float top = tops[i];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float slope, score = cap_score(layer, scores[i][j], slope);
        scores[i][j] = sees(layer, tile.first + score_row(i), start + score_column(j)) ? score : -infinite();
        top = fmaxf(top, scores[i][j]);
      }
      top = row_max(top);
      // A row that has seen nothing yet has no maximum to subtract.
      float minus = top == -infinite() ? 0 : top, sum = 0;
      float decay = expf(tops[i] - minus);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float weight = expf(scores[i][j] - minus);
        sum += weight;
        weights[score_row(i) * ATTENTION_PITCH + score_column(j)] = weight;
      }
      sums[i] = fmaf(sums[i], decay, row_sum(sum));
      tops[i] = top;
#pragma unroll
      for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
        for (int j = 0; j < 4; j++) taken[chunk][i][j] *= decay;
    }
    weights_by_rows<CHUNKS, T>(weights, value_rows, first, d, stage, taken);
  }
  float factors[4];
#pragma unroll
  for (int i = 0; i < 4; i++) factors[i] = 1 / sums[i];
  store_rows<CHUNKS, T>(out, tile.segment + tile.first, here, width, head, d, first, taken, factors);
  if (first == 0 && (threadIdx.x & 15) == 0)
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (score_row(i) < here)
        lse[(u64)(tile.segment + tile.first + score_row(i)) * layer.heads + head] = tops[i] + logf(sums[i]);
}

// Grid: tiles (at most tokens / 64 + segments), heads.
#define ATTENTION(name, CHUNKS, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1)                                                      \
      name(const T *q, const T *k, const T *v, const u32 *starts, int segments, int heads, int group,      \
           int d, float scale, int window, float cap, int first, T *out, float *lse) {                             \
    __shared__ __align__(16) float stage[ATTENTION_STAGE];                                                             \
    __shared__ __align__(16) float weights[ATTENTION_TILE * ATTENTION_PITCH];                                          \
    __shared__ int place[3];                                                                                           \
    AttentionLayer layer = {heads, group, d, scale, window, cap};                                                      \
    attend<CHUNKS, T>(q, k, v, starts, segments, layer, first, out, lse, stage, weights, place);                          \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define ATTENTIONS(T) ATTENTION(attention_64_##T, 1, T) ATTENTION(attention_128_##T, 2, T) ATTENTION(attention_256_##T, 4, T)
FOR_ACTIVATIONS(ATTENTIONS)
