// Gradients of attention on the tensor cores, without atomics. A block owns 64 keys (for dk and dv) or 64 queries (for
// dq), a warp sixteen of them, whose sums stay in its registers; rows of the other kind pass by ROWS: 32, or 16 where
// shared memory is short. `dq` carries attention_delta's dot products until it is written.
#include "attention_fragments.cuh"

#define GRADIENT_THREADS 128
#define GRADIENT_ROWS 64

template <int D, int ROWS, class T> struct GradientShared {
  typedef HeadTile<D, GRADIENT_ROWS, GRADIENT_THREADS, T> Own;
  typedef HeadTile<D, ROWS, GRADIENT_THREADS, T> Passing;
  u16 *own[2], *passing[2];
  // What comes next: in f32, or a second tile of each kind.
  u8 *stage[2];

  __device__ __forceinline__ GradientShared(u8 *shared) {
    for (int i = 0; i < 2; i++) {
      own[i] = (u16 *)(shared + i * Own::BYTES);
      passing[i] = (u16 *)(shared + 2 * Own::BYTES + i * Passing::BYTES);
      stage[i] = shared + 2 * (Own::BYTES + Passing::BYTES) + i * Passing::STAGE_BYTES;
    }
  }
  // All rows of the block's own; the stages must be free.
  __device__ __forceinline__ void load_own(int which, const HeadRows<T> &rows) {
    for (int first = 0; first < GRADIENT_ROWS; first += 2 * ROWS) {
      for (int i = 0; i < 2; i++) {
        HeadRows<T> part = rows;
        part.count -= first + i * ROWS;
        if (part.count > 0) part.row += (u64)(first + i * ROWS) * rows.width;
        Passing::fetch(part, stage[i], own[which] + (first + i * ROWS) * Own::PITCH);
      }
      copies_wait<0>();
      for (int i = 0; i < 2; i++) Passing::narrow(stage[i], own[which] + (first + i * ROWS) * Own::PITCH);
    }
  }
  __device__ __forceinline__ void fetch(const HeadRows<T> &first, const HeadRows<T> &second) {
    Passing::fetch(first, stage[0], (u16 *)stage[0]);
    Passing::fetch(second, stage[1], (u16 *)stage[1]);
  }
  __device__ __forceinline__ void arrive() {
    copies_wait<0>();
    if (sizeof(T) == 2) {
      for (int i = 0; i < 2; i++) {
        u16 *next = (u16 *)stage[i];
        stage[i] = (u8 *)passing[i];
        passing[i] = next;
      }
    }
    Passing::narrow(stage[0], passing[0]);
    Passing::narrow(stage[1], passing[1]);
  }
};

// The dot product of dout and out of a row and head, as attention_delta left it.
template <class T> __device__ __forceinline__ float dot_of(const T *dq, u64 index, int d) {
  return *(const float *)(dq + index * d);
}

template <int N> __device__ __forceinline__ void clear(float (&sums)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[n][i] = 0;
}

// Turns a score and the gradient of its probability into the probability and the score's gradient.
__device__ __forceinline__ void slopes(const AttentionLayer &layer, float &score, float &gradient, float lse, float delta,
                                       bool seen) {
  float slope, capped = cap_score(layer, score, slope);
  score = seen ? exp2f((capped - lse) * LOG2_E) : 0;
  gradient = seen ? score * (gradient - delta) * slope * layer.scale : 0;
}

// Over the heads of the group, and over blocks of queries, in ascending order. Scores are [key, query].
template <int D, int ROWS, class T>
__device__ __forceinline__ void key_gradients_mma(const T *q, const T *k, const T *v, const float *lse, const T *dout,
                                                  const T *delta, const u32 *starts, int segments,
                                                  const AttentionLayer &layer, T *dk, T *dv,
                                                  u8 *bytes, float (&logs)[ROWS], float (&dots)[ROWS],
                                                  int *place) {
  SegmentTile tile = find_tile(starts, segments, GRADIENT_ROWS, blockIdx.x, place);
  if (tile.length == 0) return;
  typedef typename ProductsOf<T>::Element Element;
  GradientShared<D, ROWS, T> shared(bytes);
  const int pitch = GradientShared<D, ROWS, T>::Own::PITCH, eights = ROWS / 8;
  int kv_head = blockIdx.y, width = layer.heads * D, key_width = layer.heads / layer.group * D;
  int here = min(GRADIENT_ROWS, tile.length - tile.first), own = (threadIdx.x >> 5) * 16;
  shared.load_own(0, HeadRows<T>(k, tile.segment + tile.first, here, key_width, kv_head, D));
  shared.load_own(1, HeadRows<T>(v, tile.segment + tile.first, here, key_width, kv_head, D));
  float key_sums[D / 8][4], value_sums[D / 8][4];
  clear(key_sums);
  clear(value_sums);
  // The last query that sees the last key, at most.
  int end = layer.window < tile.length ? min(tile.length, tile.first + here - 1 + layer.window) : tile.length;
  int head = kv_head * layer.group, start = tile.first;
  auto fetch = [&]() {
    int rows = min(ROWS, tile.length - start);
    shared.fetch(HeadRows<T>(q, tile.segment + start, rows, width, head, D),
                 HeadRows<T>(dout, tile.segment + start, rows, width, head, D));
  };
  auto arrive = [&]() {
    shared.arrive();
    if (threadIdx.x < ROWS) {
      bool valid = start + (int)threadIdx.x < tile.length;
      u64 row = (u64)(tile.segment + start + threadIdx.x) * layer.heads + head;
      logs[threadIdx.x] = valid ? lse[row] : 0;
      dots[threadIdx.x] = valid ? dot_of(delta, row, D) : 0;
    }
    __syncthreads();
  };
  fetch();
  arrive();
  while (true) {
    int at = start;
    start += ROWS;
    if (start >= end) {
      start = tile.first;
      head++;
    }
    bool more = head < (kv_head + 1) * layer.group;
    if (more) fetch();
    float scores[eights][4], gradients[eights][4];
    row_products<Element, D, eights, pitch>(shared.own[0] + own * pitch, shared.passing[0], scores);
    row_products<Element, D, eights, pitch>(shared.own[1] + own * pitch, shared.passing[1], gradients);
#pragma unroll
    for (int n = 0; n < eights; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int query = fragment_column(n, i);
        bool seen = at + query < tile.length && sees(layer, at + query, tile.first + own + fragment_row(i));
        slopes(layer, scores[n][i], gradients[n][i], logs[query], dots[query], seen);
      }
    add_weighted_rows<Element, D, eights, pitch>(scores, shared.passing[1], value_sums);
    add_weighted_rows<Element, D, eights, pitch>(gradients, shared.passing[0], key_sums);
    if (!more) break;
    __syncthreads();
    arrive();
  }
  u64 to = (u64)(tile.segment + tile.first + own) * key_width + kv_head * D;
  store_fragments<D, T>(dk + to, key_width, here - own, key_sums, 1, 1);
  store_fragments<D, T>(dv + to, key_width, here - own, value_sums, 1, 1);
}

// Over blocks of keys in ascending order. Scores are [query, key].
template <int D, int ROWS, class T>
__device__ __forceinline__ void query_gradients_mma(const T *q, const T *k, const T *v, const float *lse, const T *dout,
                                                    const u32 *starts, int segments, const AttentionLayer &layer,
                                                    T *dq, u8 *bytes, int *place) {
  SegmentTile tile = find_tile(starts, segments, GRADIENT_ROWS, gridDim.x - 1 - blockIdx.x, place);
  if (tile.length == 0) return;
  typedef typename ProductsOf<T>::Element Element;
  GradientShared<D, ROWS, T> shared(bytes);
  const int pitch = GradientShared<D, ROWS, T>::Own::PITCH, eights = ROWS / 8;
  int head = blockIdx.y, width = layer.heads * D, key_width = layer.heads / layer.group * D;
  int here = min(GRADIENT_ROWS, tile.length - tile.first), own = (threadIdx.x >> 5) * 16;
  shared.load_own(0, HeadRows<T>(q, tile.segment + tile.first, here, width, head, D));
  shared.load_own(1, HeadRows<T>(dout, tile.segment + tile.first, here, width, head, D));
  float sums[D / 8][4], logs[2], dots[2];
  clear(sums);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = own + fragment_row(half * 2);
    u64 at = (u64)(tile.segment + tile.first + row) * layer.heads + head;
    logs[half] = row < here ? lse[at] : 0;
    dots[half] = row < here ? dot_of(dq, at, D) : 0;
  }
  int lowest = tile.first - layer.window + 1;
  lowest = lowest > 0 ? lowest / ROWS * ROWS : 0;
  int end = tile.first + here;
  auto fetch = [&](int start) {
    int rows = min(ROWS, tile.length - start);
    shared.fetch(HeadRows<T>(k, tile.segment + start, rows, key_width, head / layer.group, D),
                 HeadRows<T>(v, tile.segment + start, rows, key_width, head / layer.group, D));
  };
  fetch(lowest);
  shared.arrive();
  __syncthreads();
  for (int start = lowest; start < end; start += ROWS) {
    bool more = start + ROWS < end;
    if (more) fetch(start + ROWS);
    float scores[eights][4], gradients[eights][4];
    row_products<Element, D, eights, pitch>(shared.own[0] + own * pitch, shared.passing[0], scores);
    row_products<Element, D, eights, pitch>(shared.own[1] + own * pitch, shared.passing[1], gradients);
#pragma unroll
    for (int n = 0; n < eights; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int row = own + fragment_row(i);
        bool seen = row < here && sees(layer, tile.first + row, start + fragment_column(n, i));
        slopes(layer, scores[n][i], gradients[n][i], logs[i >> 1], dots[i >> 1], seen);
      }
    add_weighted_rows<Element, D, eights, pitch>(gradients, shared.passing[0], sums);
    __syncthreads();
    if (more) {
      shared.arrive();
      __syncthreads();
    }
  }
  store_fragments<D, T>(dq + (u64)(tile.segment + tile.first + own) * width + head * D, width, here - own, sums, 1, 1);
}

// Grid: tiles (at most tokens / 64 + segments), key-value heads (heads for dq). Shared memory: two own and two passing
// tiles, (128 + 2 ROWS) · (2 D + 16) bytes, and for f32 the stages of these, 8 · ROWS · D bytes, for sixteen bits as much
// as the passing again.
#define ATTENTION_GRADIENTS_MMA(suffix, D, ROWS, T)                                                                    \
  extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS, 1)                                                    \
      attention_key_gradients_##suffix(const T *q, const T *k, const T *v, const float *lse,               \
                                       const T *dout, const T *delta, const u32 *starts, int segments,         \
                                       int heads, int group, float scale, int window, float cap, T *dk,            \
                                       T *dv) {                                                                    \
    DYN_SHARED(u8, shared);                                                                                            \
    __shared__ float logs[ROWS], dots[ROWS];                                                           \
    __shared__ int place[3];                                                                                           \
    AttentionLayer layer = {heads, group, D, scale, window, cap};                                                      \
    key_gradients_mma<D, ROWS, T>(q, k, v, lse, dout, delta, starts, segments, layer, dk, dv, shared, logs, dots, place);       \
  }                                                                                                                    \
  KERNEL_REGISTER(attention_key_gradients_##suffix)                                                                    \
  extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS, 1)                                                    \
      attention_query_gradients_##suffix(const T *q, const T *k, const T *v, const float *lse,             \
                                         const T *dout, const u32 *starts, int segments, int heads, int group,     \
                                         float scale, int window, float cap, T *dq) {                              \
    DYN_SHARED(u8, shared);                                                                                            \
    __shared__ int place[3];                                                                                           \
    AttentionLayer layer = {heads, group, D, scale, window, cap};                                                      \
    query_gradients_mma<D, ROWS, T>(q, k, v, lse, dout, starts, segments, layer, dq, shared, place);                            \
  }                                                                                                                    \
  KERNEL_REGISTER(attention_query_gradients_##suffix)

#define GRADIENTS_MMA(T, MOST)                                                                                         \
  ATTENTION_GRADIENTS_MMA(mma_64_##T, 64, 32, T)                                                                       \
  ATTENTION_GRADIENTS_MMA(mma_80_##T, 80, 32, T)                                                                       \
  ATTENTION_GRADIENTS_MMA(mma_96_##T, 96, 32, T)                                                                       \
  ATTENTION_GRADIENTS_MMA(mma_128_##T, 128, MOST, T)
FOR_BF16(GRADIENTS_MMA(f32, 32))
FOR_BF16(GRADIENTS_MMA(bf16, 32))
// 64 KiB are all that devices without bf16 have.
FOR_F16(GRADIENTS_MMA(f16, 16))
