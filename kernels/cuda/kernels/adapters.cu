// An adapter's way through its rank, for up to three projections at once: activations in bf16 or f16, f32 factors that are
// narrowed where they are used, sums in f32 on the tensor cores.
//
//   adapter_down:      low_j[M,r_j] = x[M,K] · A_jᵀ           x is read once for all
//   adapter_through:   through_j[M,r_j] = dy_j[M,N_j] · B_j
//   adapter_gradients: dB_j[N_j,r_j] = s_j · dy_jᵀ · low_j,  dA_j[r_j,K] = s_j · through_jᵀ · x
//
// Rows of activations are multiples of eight elements and start on sixteen bytes. Every sum has an order that its length
// alone decides.
#include "tensor_core.cuh"

// One of three by index, without an array that would have to live in memory.
template <class T> __device__ __forceinline__ T pick(int index, T a, T b, T c) { return index == 0 ? a : index == 1 ? b : c; }

__device__ __forceinline__ void load_eight(const float *from, bool valid, bool quads, float (&to)[8]) {
  if (valid && quads) {
    float4 low = load_four(from), high = load_four(from + 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++)
      to[i] = valid ? from[i] : 0;
  }
}

#define REDUCE_WARPS 8
#define REDUCE_ROWS 16

// Warps take steps of 32 in turn; then their sums are added in order. A thread loads eight neighbouring elements of a row,
// which stand for steps 2q, 2q + 1, 2q + 8 and 2q + 9 of two products: the factor's are permuted alike.
template <class T, int TILES, class Row, class Factor, class Store>
__device__ __forceinline__ void reduce_rows(int m, int k, const Row &row_of, const Factor &factor, const Store &store,
                                            float (*sums)[TILES * 8]) {
  typedef typename ProductsOf<T>::Element Element;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
  const int first = blockIdx.x * REDUCE_ROWS;
  const T *rows[2] = {row_of(first + g < m ? first + g : m - 1), row_of(first + g + 8 < m ? first + g + 8 : m - 1)};
  float sum[TILES][4] = {};
  for (int at = warp * 32 + q * 8; at - q * 8 < k; at += REDUCE_WARPS * 32) {
    uint4 x = make_uint4(0, 0, 0, 0), y = make_uint4(0, 0, 0, 0);
    if (at < k) {
      x = *(const uint4 *)(rows[0] + at);
      y = *(const uint4 *)(rows[1] + at);
    }
    u32 low[4] = {x.x, y.x, x.y, y.y}, high[4] = {x.z, y.z, x.w, y.w};
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      float f[8];
      factor(tile, at, f);
      Element::multiply(sum[tile], low, T::pack(f[0], f[1]), T::pack(f[2], f[3]));
      Element::multiply(sum[tile], high, T::pack(f[4], f[5]), T::pack(f[6], f[7]));
    }
  }
  for (int turn = 0; turn < REDUCE_WARPS; turn++) {
    if (warp == turn) {
#pragma unroll
      for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float *to = &sums[g + (i >> 1) * 8][tile * 8 + q * 2 + (i & 1)];
          *to = turn == 0 ? sum[tile][i] : __fadd_rn(*to, sum[tile][i]);
        }
    }
    __syncthreads();
  }
  for (int at = threadIdx.x; at < REDUCE_ROWS * TILES * 8; at += REDUCE_WARPS * 32) {
    int row = at / (TILES * 8), column = at % (TILES * 8);
    if (first + row < m)
      store(first + row, column, sums[row][column]);
  }
}

// Grid: ⌈M / 16⌉. Ranks are padded to eights, one after another.
#define ADAPTER_DOWN(name, TILES, T)                                                                                      \
  extern "C" __global__ void __launch_bounds__(REDUCE_WARPS * 32)                                                      \
      name(const T *x, int m, int k, const float *a0, const float *a1, const float *a2, int r0, int r1, int r2,      \
           T *low0, T *low1, T *low2) {                                                                          \
    __shared__ float sums[REDUCE_ROWS][TILES * 8];                                                                     \
    const int end0 = (r0 + 7) / 8, end1 = end0 + (r1 + 7) / 8, end2 = end1 + (r2 + 7) / 8;                             \
    const bool quads = k % 4 == 0 && ((u64)a0 | (u64)a1 | (u64)a2) % 16 == 0;                                          \
    reduce_rows<T, TILES>(                                                                                                \
        m, k, [&](int row) { return x + (u64)row * k; },                                                               \
        [&](int tile, int at, float(&f)[8]) {                                                                          \
          int job = tile < end0 ? 0 : tile < end1 ? 1 : 2;                                                             \
          int column = (tile - pick(job, 0, end0, end1)) * 8 + (int)(threadIdx.x >> 2 & 7);                            \
          const float *from = pick(job, a0, a1, a2) + (u64)column * k + at;                                            \
          bool valid = tile < end2 && column < pick(job, r0, r1, r2) && at < k;                                        \
          load_eight(from, valid, quads, f);                                                                           \
        },                                                                                                             \
        [&](int row, int column, float sum) {                                                                          \
          int tile = column / 8, job = tile < end0 ? 0 : tile < end1 ? 1 : 2, rank = pick(job, r0, r1, r2);            \
          int at = column - 8 * pick(job, 0, end0, end1);                                                              \
          if (tile < end2 && at < rank)                                                                                \
            store_one(pick(job, low0, low1, low2) + (u64)row * rank + at, sum);                                        \
        },                                                                                                             \
        sums);                                                                                                         \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

// Grid: ⌈M / 16⌉, projections.
#define ADAPTER_THROUGH(name, TILES, T)                                                                                   \
  extern "C" __global__ void __launch_bounds__(REDUCE_WARPS * 32)                                                      \
      name(int m, const T *dy0, const T *dy1, const T *dy2, int n0, int n1, int n2, const float *b0,             \
           const float *b1, const float *b2, int r0, int r1, int r2, T *through0, T *through1, T *through2) {    \
    __shared__ float sums[REDUCE_ROWS][TILES * 8];                                                                     \
    const int job = blockIdx.y, n = pick(job, n0, n1, n2), rank = pick(job, r0, r1, r2);                               \
    const T *dy = pick(job, dy0, dy1, dy2);                                                                          \
    const float *b = pick(job, b0, b1, b2);                                                                            \
    T *through = pick(job, through0, through1, through2);                                                            \
    reduce_rows<T, TILES>(                                                                                                \
        m, n, [&](int row) { return dy + (u64)row * n; },                                                              \
        [&](int tile, int at, float(&f)[8]) {                                                                          \
          int column = tile * 8 + (int)(threadIdx.x >> 2 & 7);                                                         \
          bool valid = column < rank && at < n;                                                                        \
          _Pragma("unroll") for (int i = 0; i < 8; i++) f[i] = valid ? b[(u64)(at + i) * rank + column] : 0;           \
        },                                                                                                             \
        [&](int row, int column, float sum) {                                                                          \
          if (column < rank)                                                                                           \
            store_one(through + (u64)row * rank + column, sum);                                                        \
        },                                                                                                             \
        sums);                                                                                                         \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define GRADIENT_THREADS 128
// Columns of the wide side that a block has, and rows that are staged at once.
#define GRADIENT_WIDE 64
#define GRADIENT_STEP 64
// Elements from one staged row to the next: rows start in different banks.
#define GRADIENT_PITCH 72
#define GRADIENT_TILE (GRADIENT_STEP * GRADIENT_PITCH)

// Eight elements of row `row`, from `column` on, of a matrix [m, width]; zeros outside.
__device__ __forceinline__ void stage_row(u16 *to, const u16 *matrix, int m, int width, int row, int column, bool vector) {
  bool valid = row < m && column < width;
  const u16 *from = matrix + (valid ? (u64)row * width + column : 0);
  if (vector) {
    copy_sixteen(to, from, valid);
  } else {
    for (int j = 0; j < 8; j++)
      to[j] = valid && column + j < width ? from[j] : (u16)0;
  }
}

// out[wide, rank] = scale · wideᵀ · narrow (+ out), or its transpose [rank, wide]; sums over rows in ascending order. A warp
// has sixteen columns of the wide side and all of the rank.
template <class Element, int RANK>
__device__ __forceinline__ void tall_product(const u16 *wide, int width, const u16 *narrow, int rank, int m, int start,
                                             float scale, bool accumulate, bool transposed, float *out, u16 *shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const bool vector = rank % 8 == 0;
  const int steps = (m + GRADIENT_STEP - 1) / GRADIENT_STEP;
  float sums[RANK / 8][4] = {};
  auto stage = [&](int step) {
    u16 *to = shared + (step & 1) * 2 * GRADIENT_TILE;
    for (int at = threadIdx.x; at < GRADIENT_STEP * (GRADIENT_WIDE / 8); at += GRADIENT_THREADS) {
      int row = at / (GRADIENT_WIDE / 8), column = at % (GRADIENT_WIDE / 8) * 8;
      stage_row(to + row * GRADIENT_PITCH + column, wide, m, width, step * GRADIENT_STEP + row, start + column, true);
    }
    for (int at = threadIdx.x; at < GRADIENT_STEP * (RANK / 8); at += GRADIENT_THREADS) {
      int row = at / (RANK / 8), column = at % (RANK / 8) * 8;
      stage_row(to + GRADIENT_TILE + row * GRADIENT_PITCH + column, narrow, m, rank, step * GRADIENT_STEP + row, column,
                vector);
    }
  };
  if (steps > 0)
    stage(0);
  copies_commit();
  for (int step = 0; step < steps; step++) {
    if (step + 1 < steps)
      stage(step + 1);
    copies_commit();
    copies_wait<1>();
    __syncthreads();
    const u16 *tile = shared + (step & 1) * 2 * GRADIENT_TILE, *right = tile + GRADIENT_TILE;
#pragma unroll
    for (int at = 0; at < GRADIENT_STEP; at += 16) {
      u32 a[4];
      load_matrices_transposed(a, tile + (at + (lane & 7) + (lane >> 4) * 8) * GRADIENT_PITCH + warp * 16 +
                                      (lane >> 3 & 1) * 8);
#pragma unroll
      for (int n = 0; n < RANK; n += 16) {
        u32 b[4];
        load_matrices_transposed(b, right + (at + (lane & 15)) * GRADIENT_PITCH + n + (lane >> 4) * 8);
        Element::multiply(sums[n / 8], a, b[0], b[1]);
        Element::multiply(sums[n / 8 + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int n = 0; n < RANK / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int column = start + warp * 16 + (lane >> 2) + (i >> 1) * 8, at = n * 8 + (lane & 3) * 2 + (i & 1);
      if (column >= width || at >= rank)
        continue;
      float *to = out + (transposed ? (u64)at * width + column : (u64)column * rank + at);
      *to = accumulate ? fmaf(scale, sums[n][i], *to) : __fmul_rn(scale, sums[n][i]);
    }
}

// Grid: ⌈max(N, K) / 64⌉, two for each projection: dB, then dA.
#define ADAPTER_GRADIENTS(name, RANK, T)                                                                                  \
  extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS)                                                       \
      name(const T *x, int m, int k, int accumulate, const T *dy0, const T *dy1, const T *dy2, int n0, int n1, \
           int n2, int r0, int r1, int r2, float s0, float s1, float s2, const T *low0, const T *low1,             \
           const T *low2, const T *through0, const T *through1, const T *through2, float *a0, float *a1,       \
           float *a2, float *b0, float *b1, float *b2) {                                                               \
    __shared__ __align__(16) u16 shared[4 * GRADIENT_TILE];                                                            \
    const int job = blockIdx.y / 2, start = blockIdx.x * GRADIENT_WIDE, rank = pick(job, r0, r1, r2);                  \
    const bool down = blockIdx.y % 2;                                                                                  \
    const int width = down ? k : pick(job, n0, n1, n2);                                                                \
    if (start >= width)                                                                                                \
      return;                                                                                                          \
    const T *wide = down ? x : pick(job, dy0, dy1, dy2);                                                             \
    const T *narrow = down ? pick(job, through0, through1, through2) : pick(job, low0, low1, low2);                  \
    float *out = down ? pick(job, a0, a1, a2) : pick(job, b0, b1, b2);                                                 \
    tall_product<ProductsOf<T>::Element, RANK>((const u16 *)wide, width, (const u16 *)narrow, rank, m, start, pick(job, s0, s1, s2), accumulate != 0, down, out, shared); \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define ADAPTERS(T)                                                                                                    \
  ADAPTER_DOWN(adapter_down_8_##T, 8, T)                                                                               \
  ADAPTER_DOWN(adapter_down_24_##T, 24, T)                                                                             \
  ADAPTER_THROUGH(adapter_through_2_##T, 2, T)                                                                         \
  ADAPTER_THROUGH(adapter_through_8_##T, 8, T)                                                                         \
  ADAPTER_GRADIENTS(adapter_gradients_16_##T, 16, T)                                                                   \
  ADAPTER_GRADIENTS(adapter_gradients_64_##T, 64, T)
FOR_NARROW(ADAPTERS)
