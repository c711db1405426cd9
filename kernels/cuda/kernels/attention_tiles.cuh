// What the kernels of attention over packed segments share, on the arithmetic of f32.
//
// q is [tokens, heads · d], k and v are [tokens, kv_heads · d]; `starts` holds the first row of each segment and, last,
// the number of tokens. Tiles of rows are counted from the start of their segment, and every sum runs over blocks of
// keys (or queries) in ascending order, so the bits of a row depend on its own segment alone.
#pragma once
#include "values.cuh"

// Rows and columns of a tile of scores; threads of a block, 16 by 16, each with 4 by 4 of them.
#define ATTENTION_TILE 64
#define ATTENTION_THREADS 256
// Elements of a head that are staged at once for a product of rows with rows.
#define ATTENTION_DEPTH 32
// Floats from one staged row to the next: four more than the row, so that neighbouring rows start in other banks.
#define ATTENTION_DEPTH_PITCH (ATTENTION_DEPTH + 4)
#define ATTENTION_PITCH (ATTENTION_TILE + 4)
// Floats of the staging area: two operands by depth, or one by columns.
#define ATTENTION_STAGE (2 * ATTENTION_TILE * ATTENTION_DEPTH_PITCH)

struct AttentionLayer {
  // Query heads, and how many of them share a key-value head.
  int heads, group;
  int d;
  float scale;
  // Rows that a row sees, itself counted; 2^31 - 1 where it sees all earlier ones.
  int window;
  // Scores become cap · tanh(score / cap); 0 where they stay.
  float cap;
};

// A tile of rows inside a segment; `segment` is its first row, `first` counts from there.
struct SegmentTile {
  int segment, length, first;
};

// The `index`-th tile of `rows` rows over all segments; length 0 if there are fewer tiles. By the whole block, which
// may read `shared` (3 ints) again after its next barrier.
__device__ __forceinline__ SegmentTile find_tile(const u32 *starts, int segments, int rows, int index, int *shared) {
  if (threadIdx.x < 32) {
    int lane = threadIdx.x, before = 0, found = 0;
    if (lane == 0) shared[1] = 0;
    __syncwarp();
    for (int base = 0; base < segments && !found; base += 32) {
      int at = base + lane, start = 0, length = 0;
      if (at < segments) {
        start = starts[at];
        length = starts[at + 1] - start;
      }
      int tiles = (length + rows - 1) / rows, through = tiles;
      for (int step = 1; step < 32; step *= 2) {
        int other = __shfl_up_sync(0xffffffffu, through, step);
        if (lane >= step) through += other;
      }
      int mine = index - before - (through - tiles);
      bool here = mine >= 0 && mine < tiles;
      if (here) {
        shared[0] = start;
        shared[1] = length;
        shared[2] = mine * rows;
      }
      found = __any_sync(0xffffffffu, here);
      before += __shfl_sync(0xffffffffu, through, 31);
    }
  }
  __syncthreads();
  return {shared[0], shared[1], shared[2]};
}

// Rows of one head of a matrix [rows, width]: `row` is where the first one starts.
template <class T> struct HeadRows {
  const T *row;
  int width;
  // How many there are; the others count as zeros.
  int count;
  // Whether four elements can be loaded at once.
  bool quads;

  __device__ __forceinline__ HeadRows(const T *matrix, int first, int count, int width, int head, int d)
      : row(matrix + (u64)first * width + head * d), width(width), count(count) {
    quads = d % 4 == 0 && width % 4 == 0 && (u64)matrix % (4 * sizeof(T)) == 0;
  }
  // Elements `at` to `at + 3` of row `index`, zeros from `end` on.
  __device__ __forceinline__ float4 four(int index, int at, int end) const {
    float4 out = make_float4(0, 0, 0, 0);
    if (index >= count || at >= end) return out;
    const T *from = row + (u64)index * width + at;
    if (quads) return load_four(from);
    out.x = load_one(from);
    if (at + 1 < end) out.y = load_one(from + 1);
    if (at + 2 < end) out.z = load_one(from + 2);
    if (at + 3 < end) out.w = load_one(from + 3);
    return out;
  }
};

// The 4 by 4 scores of a thread: rows 4 · (thread / 16) + i, columns thread % 16 + 16 · j.
__device__ __forceinline__ int score_row(int i) { return (threadIdx.x >> 4) * 4 + i; }
__device__ __forceinline__ int score_column(int j) { return (threadIdx.x & 15) + 16 * j; }

// sums[i][j] = left row i · right row j over all d elements. Ends with a barrier; `stage` must be free.
template <class T>
__device__ __forceinline__ void rows_by_rows(const HeadRows<T> &left, const HeadRows<T> &right, int d, float *stage,
                                             float (&sums)[4][4]) {
  float *a = stage, *b = stage + ATTENTION_TILE * ATTENTION_DEPTH_PITCH;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sums[i][j] = 0;
  for (int from = 0; from < d; from += ATTENTION_DEPTH) {
#pragma unroll
    for (int part = 0; part < ATTENTION_TILE * ATTENTION_DEPTH / 4 / ATTENTION_THREADS; part++) {
      int quad = threadIdx.x + part * ATTENTION_THREADS;
      int row = quad / (ATTENTION_DEPTH / 4), at = quad % (ATTENTION_DEPTH / 4) * 4;
      *(float4 *)(a + row * ATTENTION_DEPTH_PITCH + at) = left.four(row, from + at, d);
      *(float4 *)(b + row * ATTENTION_DEPTH_PITCH + at) = right.four(row, from + at, d);
    }
    __syncthreads();
#pragma unroll
    for (int at = 0; at < ATTENTION_DEPTH; at += 4) {
      float4 x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = *(const float4 *)(a + score_row(i) * ATTENTION_DEPTH_PITCH + at);
#pragma unroll
      for (int j = 0; j < 4; j++) y[j] = *(const float4 *)(b + score_column(j) * ATTENTION_DEPTH_PITCH + at);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          sums[i][j] = fmaf(x[i].x, y[j].x, sums[i][j]);
          sums[i][j] = fmaf(x[i].y, y[j].y, sums[i][j]);
          sums[i][j] = fmaf(x[i].z, y[j].z, sums[i][j]);
          sums[i][j] = fmaf(x[i].w, y[j].w, sums[i][j]);
        }
    }
    __syncthreads();
  }
}

// sums[c][i][·] += weights row i · right's columns, for the columns `first` + 64 c + 4 · (thread % 16) + 0..3. `weights`
// is [64, ATTENTION_PITCH] in shared memory, written by any thread before it calls; ends with a barrier, `stage` must be
// free.
template <int CHUNKS, class T>
__device__ __forceinline__ void weights_by_rows(const float *weights, const HeadRows<T> &right, int first, int d,
                                                float *stage, float (&sums)[CHUNKS][4][4]) {
#pragma unroll
  for (int chunk = 0; chunk < CHUNKS; chunk++) {
    int from = first + chunk * ATTENTION_TILE;
    if (from < d) {
#pragma unroll
      for (int part = 0; part < ATTENTION_TILE * ATTENTION_TILE / 4 / ATTENTION_THREADS; part++) {
        int quad = threadIdx.x + part * ATTENTION_THREADS;
        int row = quad / (ATTENTION_TILE / 4), at = quad % (ATTENTION_TILE / 4) * 4;
        *(float4 *)(stage + row * ATTENTION_PITCH + at) = right.four(row, from + at, d);
      }
      __syncthreads();
#pragma unroll 4
      for (int k = 0; k < ATTENTION_TILE; k += 4) {
        float4 x[4], y[4];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = *(const float4 *)(weights + score_row(i) * ATTENTION_PITCH + k);
#pragma unroll
        for (int j = 0; j < 4; j++)
          y[j] = *(const float4 *)(stage + (k + j) * ATTENTION_PITCH + (threadIdx.x & 15) * 4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float each[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
          for (int j = 0; j < 4; j++) {
            sums[chunk][i][0] = fmaf(each[j], y[j].x, sums[chunk][i][0]);
            sums[chunk][i][1] = fmaf(each[j], y[j].y, sums[chunk][i][1]);
            sums[chunk][i][2] = fmaf(each[j], y[j].z, sums[chunk][i][2]);
            sums[chunk][i][3] = fmaf(each[j], y[j].w, sums[chunk][i][3]);
          }
        }
      }
      __syncthreads();
    }
  }
}

// Writes what `weights_by_rows` summed, times a factor per row, to rows of one head.
template <int CHUNKS, class T>
__device__ __forceinline__ void store_rows(T *matrix, int first_row, int count, int width, int head, int d,
                                           int first, const float (&sums)[CHUNKS][4][4], const float (&factors)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (score_row(i) >= count) continue;
    T *to = matrix + (u64)(first_row + score_row(i)) * width + head * d;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int column = first + chunk * ATTENTION_TILE + (threadIdx.x & 15) * 4 + j;
        if (column < d) store_one(to + column, sums[chunk][i][j] * factors[i]);
      }
  }
}

// A scaled and capped score; `slope` is what the cap's gradient multiplies by.
__device__ __forceinline__ float cap_score(const AttentionLayer &layer, float sum, float &slope) {
  float score = sum * layer.scale;
  slope = 1;
  if (layer.cap > 0) {
    float bent = tanhf(score / layer.cap);
    score = layer.cap * bent;
    slope = 1 - bent * bent;
  }
  return score;
}

// Whether query `query` sees key `key`, both counted from the start of their segment.
__device__ __forceinline__ bool sees(const AttentionLayer &layer, int query, int key) {
  return key <= query && query - key < layer.window;
}
