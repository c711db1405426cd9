// Causal attention over packed segments on the tensor cores: a warp owns sixteen query rows, whose scores, softmax and
// sums never leave its registers; a block is eight warps, and keys and values come by 64.
#include "attention_fragments.cuh"

#define MMA_THREADS 256
#define MMA_QUERIES 128
#define MMA_KEYS 64

template <int D, class T>
__device__ __forceinline__ void attend_mma(const T *q, const T *k, const T *v, const u32 *starts, int segments,
                                           const AttentionLayer &layer, T *out, float *lse,
                                           u8 *shared, int *place) {
  typedef HeadTile<D, MMA_KEYS, MMA_THREADS, T> Tile;
  typedef typename ProductsOf<T>::Element Element;
  u16 *keys = (u16 *)shared, *values = (u16 *)(shared + Tile::BYTES);
  u8 *stage = shared + 2 * Tile::BYTES;
  // Later tiles see more keys, so they start first.
  SegmentTile tile = find_tile(starts, segments, MMA_QUERIES, gridDim.x - 1 - blockIdx.x, place);
  if (tile.length == 0) return;
  int head = blockIdx.y, width = layer.heads * D, key_width = layer.heads / layer.group * D;
  // Rows of this warp, counted from the start of the segment.
  int own = tile.first + (threadIdx.x >> 5) * 16, end = min(tile.length, tile.first + MMA_QUERIES);
  u32 queries[D / 16][4];
#pragma unroll
  for (int step = 0; step < D / 16; step++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = own + fragment_row((i & 1) * 2);
      float2 pair = make_float2(0, 0);
      if (row < end)
        pair = load_two(q + (u64)(tile.segment + row) * width + head * D + fragment_column(step * 2 + (i >> 1), 0));
      queries[step][i] = Element::Narrow::pack(pair.x, pair.y);
    }
  float tops[2] = {-infinite(), -infinite()}, sums[2] = {0, 0}, taken[D / 8][4];
#pragma unroll
  for (int n = 0; n < D / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) taken[n][i] = 0;

  int lowest = tile.first - layer.window + 1;
  lowest = lowest > 0 ? lowest / MMA_KEYS * MMA_KEYS : 0;
  auto rows_of = [&](const T *matrix, int start) {
    return HeadRows<T>(matrix, tile.segment + start, min(MMA_KEYS, tile.length - start), key_width, head / layer.group, D);
  };
  Tile::fetch(rows_of(k, lowest), stage, keys);
  copies_wait<0>();
  Tile::narrow(stage, keys);
  __syncthreads();
  for (int start = lowest; start < end; start += MMA_KEYS) {
    Tile::fetch(rows_of(v, start), stage, values);
    // A warp whose last row comes before these keys has nothing to do with them.
    bool busy = start < own + 16;
    float scores[MMA_KEYS / 8][4];
    if (busy) {
#pragma unroll
      for (int n = 0; n < MMA_KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = 0;
#pragma unroll
      for (int step = 0; step < D / 16; step++)
        add_row_products<Element, MMA_KEYS / 8, Tile::PITCH>(queries[step], keys + step * 16, scores);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int row = own + fragment_row(half * 2);
        float top = tops[half];
#pragma unroll
        for (int n = 0; n < MMA_KEYS / 8; n++)
#pragma unroll
          for (int i = half * 2; i < half * 2 + 2; i++) {
            float slope, score = cap_score(layer, scores[n][i], slope) * LOG2_E;
            scores[n][i] = sees(layer, row, start + fragment_column(n, i)) ? score : -infinite();
            top = fmaxf(top, scores[n][i]);
          }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        // A row that has seen nothing yet has no maximum to subtract.
        float minus = top == -infinite() ? 0 : top, sum = 0, decay = exp2f(tops[half] - minus);
#pragma unroll
        for (int n = 0; n < MMA_KEYS / 8; n++)
#pragma unroll
          for (int i = half * 2; i < half * 2 + 2; i++) {
            scores[n][i] = exp2f(scores[n][i] - minus);
            sum += scores[n][i];
          }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        sums[half] = fmaf(sums[half], decay, sum);
        tops[half] = top;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
          for (int i = half * 2; i < half * 2 + 2; i++) taken[n][i] *= decay;
      }
    }
    copies_wait<0>();
    Tile::narrow(stage, values);
    __syncthreads();
    bool more = start + MMA_KEYS < end;
    if (more) Tile::fetch(rows_of(k, start + MMA_KEYS), stage, keys);
    if (busy) add_weighted_rows<Element, D, MMA_KEYS / 8, Tile::PITCH>(scores, values, taken);
    copies_wait<0>();
    if (more) Tile::narrow(stage, keys);
    __syncthreads();
  }
  store_fragments<D, T>(out + (u64)(tile.segment + own) * width + head * D, width, end - own, taken, 1 / sums[0], 1 / sums[1]);
  if ((threadIdx.x & 3) == 0)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = own + fragment_row(half * 2);
      if (row < end)
        lse[(u64)(tile.segment + row) * layer.heads + head] = (tops[half] + log2f(sums[half])) * LN_2;
    }
}

// Grid: tiles (at most tokens / 128 + segments), heads. Shared memory: two tiles, 64 · (4 D + 32) bytes, and for f32
// their stage, 256 · D bytes.
#define ATTENTION_MMA(name, D, T)                                                                                         \
  extern "C" __global__ void __launch_bounds__(MMA_THREADS, 1)                                                         \
      name(const T *q, const T *k, const T *v, const u32 *starts, int segments, int heads, int group,      \
           float scale, int window, float cap, T *out, float *lse) {                                               \
    DYN_SHARED(u8, shared);                                                                                            \
    __shared__ int place[3];                                                                                           \
    AttentionLayer layer = {heads, group, D, scale, window, cap};                                                      \
    attend_mma<D, T>(q, k, v, starts, segments, layer, out, lse, shared, place);                                          \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define ATTENTIONS_MMA(T)                                                                                              \
  ATTENTION_MMA(attention_mma_64_##T, 64, T)                                                                           \
  ATTENTION_MMA(attention_mma_80_##T, 80, T)                                                                           \
  ATTENTION_MMA(attention_mma_96_##T, 96, T)                                                                           \
  ATTENTION_MMA(attention_mma_128_##T, 128, T)
FOR_BF16(ATTENTIONS_MMA(f32))
FOR_NARROW(ATTENTIONS_MMA)
