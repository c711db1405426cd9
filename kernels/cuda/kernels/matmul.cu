// Products in f32 on the ordinary cores. Each element of the output is one chain of fused multiply-adds over k in
// ascending order (four chains, of the steps of 16 equal modulo 4, in the narrow tiles), whatever the tile, so a row's
// bits depend on that row, on the matrix and on k alone.
//
//   nt: C[M,N] = scale · A[M,K] · B[N,K]ᵀ
//   nn: C[M,N] = scale · A[M,K] · B[K,N]
//   tn: C[M,N] = scale · A[K,M]ᵀ · B[K,N]
//
// The right operand of nt and nn is a matrix in any storage type, decoded while its tile is staged.
#include "operands.cuh"

enum Layout { NT, NN, TN };

struct Extent {
  int m, n, k;
  // Elements from one row to the next.
  int lda, ldb, ldc;
};

// A thread's part of a tile: pairs or quads, spread so that a warp reads its operands without bank conflicts.
template <int EACH, int ACROSS> __device__ __forceinline__ int spread(int thread, int index) {
  if (EACH >= 4)
    return index / 4 * (ACROSS * 4) + thread * 4 + index % 4;
  return thread * EACH + index;
}

template <class Matrix, Layout LAYOUT, int BM, int BN, int EM, int EN, int GROUPS, class A = float> struct Tile {
  // Steps of k that are staged at once.
  static const int STEP = 16;
  static const int ACROSS = BN / EN;
  static const int DOWN = BM / EM;
  static const int THREADS = ACROSS * DOWN;
  // A row of a staged tile; four more keep columns of it in different banks and rows on sixteen bytes.
  static const int PITCH_A = BM + 4;
  static const int PITCH_B = BN + 4;
  static const int STAGED = STEP * (PITCH_A + PITCH_B);
  // The groups' sums meet where their tiles were.
  static const int FLOATS = GROUPS * (GROUPS > 1 && BM * BN > STAGED ? BM * BN : STAGED);
  static const int QUADS_A = (BM * STEP / 4 + THREADS - 1) / THREADS;
  static const int QUADS_B = (BN * STEP / 4 + THREADS - 1) / THREADS;

  // Four elements of the left operand: along k if it is straight, along m if it is transposed.
  static __device__ __forceinline__ float4 left(const A *a, const Extent &e, int m0, int k0, int quad,
                                                bool vector) {
    float4 out = make_float4(0, 0, 0, 0);
    int m = LAYOUT == TN ? m0 + quad % (BM / 4) * 4 : m0 + quad / (STEP / 4);
    int k = LAYOUT == TN ? k0 + quad / (BM / 4) : k0 + quad % (STEP / 4) * 4;
    if (m >= e.m || k >= e.k)
      return out;
    const A *from = LAYOUT == TN ? a + (u64)k * e.lda + m : a + (u64)m * e.lda + k;
    int count = LAYOUT == TN ? e.m - m : e.k - k;
    if (vector && count >= 4)
      return load_four(from);
    out.x = load_one(from);
    if (count > 1)
      out.y = load_one(from + 1);
    if (count > 2)
      out.z = load_one(from + 2);
    if (count > 3)
      out.w = load_one(from + 3);
    return out;
  }

  // Four elements of the right operand: along k for nt, else along n.
  static __device__ __forceinline__ float4 right(const Matrix &b, const Extent &e, int n0, int k0, int quad,
                                                 bool vector) {
    float4 out = make_float4(0, 0, 0, 0);
    int n = LAYOUT == NT ? n0 + quad / (STEP / 4) : n0 + quad % (BN / 4) * 4;
    int k = LAYOUT == NT ? k0 + quad % (STEP / 4) * 4 : k0 + quad / (BN / 4);
    if (n >= e.n || k >= e.k)
      return out;
    u64 from = LAYOUT == NT ? (u64)n * e.ldb + k : (u64)k * e.ldb + n;
    int count = LAYOUT == NT ? e.k - k : e.n - n;
    if (vector && count >= 4)
      return b.four(from);
    out.x = b.at(from);
    if (count > 1)
      out.y = b.at(from + 1);
    if (count > 2)
      out.z = b.at(from + 2);
    if (count > 3)
      out.w = b.at(from + 3);
    return out;
  }

  static __device__ __forceinline__ void keep_left(float *staged, int quad, float4 v) {
    if (LAYOUT == TN) {
      *(float4 *)(staged + quad / (BM / 4) * PITCH_A + quad % (BM / 4) * 4) = v;
    } else {
      float *to = staged + quad % (STEP / 4) * 4 * PITCH_A + quad / (STEP / 4);
      to[0] = v.x;
      to[PITCH_A] = v.y;
      to[2 * PITCH_A] = v.z;
      to[3 * PITCH_A] = v.w;
    }
  }

  static __device__ __forceinline__ void keep_right(float *staged, int quad, float4 v) {
    if (LAYOUT == NT) {
      float *to = staged + quad % (STEP / 4) * 4 * PITCH_B + quad / (STEP / 4);
      to[0] = v.x;
      to[PITCH_B] = v.y;
      to[2 * PITCH_B] = v.z;
      to[3 * PITCH_B] = v.w;
    } else {
      *(float4 *)(staged + quad / (BN / 4) * PITCH_B + quad % (BN / 4) * 4) = v;
    }
  }

  template <int EACH, int OVER>
  static __device__ __forceinline__ void row(float (&to)[EACH], const float *from, int thread) {
#pragma unroll
    for (int i = 0; i < EACH; i += EACH >= 4 ? 4 : 1) {
      const float *at = from + spread<EACH, OVER>(thread, i);
      if constexpr (EACH >= 4) {
        float4 v = *(const float4 *)at;
        to[i] = v.x;
        to[i + 1] = v.y;
        to[i + 2] = v.z;
        to[i + 3] = v.w;
      } else {
        to[i] = *at;
      }
    }
  }

  static __device__ __forceinline__ void run(const A *a, const Matrix &b, float *c, const Extent &e, float scale,
                                             bool accumulate, int m0, int n0, float *shared) {
    const int group = GROUPS > 1 ? threadIdx.x / THREADS : 0;
    const int thread = GROUPS > 1 ? threadIdx.x % THREADS : threadIdx.x;
    const int tx = thread % ACROSS, ty = thread / ACROSS;
    float *staged_a = shared + group * STAGED;
    float *staged_b = staged_a + STEP * PITCH_A;
    const bool vector_a = e.lda % 4 == 0 && (u64)a % (4 * sizeof(A)) == 0;
    const bool vector_b = e.ldb % 4 == 0 && b.wide();
    float sum[EM][EN] = {};
    float4 next_a[QUADS_A], next_b[QUADS_B];
    const int steps = (e.k + STEP - 1) / STEP;
    const int rounds = (steps + GROUPS - 1) / GROUPS;

    auto fetch = [&](int round) {
      int k0 = (round * GROUPS + group) * STEP;
#pragma unroll
      for (int i = 0; i < QUADS_A; i++) {
        int quad = thread + i * THREADS;
        if (quad < BM * STEP / 4)
          next_a[i] = left(a, e, m0, k0, quad, vector_a);
      }
#pragma unroll
      for (int i = 0; i < QUADS_B; i++) {
        int quad = thread + i * THREADS;
        if (quad < BN * STEP / 4)
          next_b[i] = right(b, e, n0, k0, quad, vector_b);
      }
    };
    if (rounds > 0)
      fetch(0);
    for (int round = 0; round < rounds; round++) {
#pragma unroll
      for (int i = 0; i < QUADS_A; i++) {
        int quad = thread + i * THREADS;
        if (quad < BM * STEP / 4)
          keep_left(staged_a, quad, next_a[i]);
      }
#pragma unroll
      for (int i = 0; i < QUADS_B; i++) {
        int quad = thread + i * THREADS;
        if (quad < BN * STEP / 4)
          keep_right(staged_b, quad, next_b[i]);
      }
      __syncthreads();
      if (round + 1 < rounds)
        fetch(round + 1);
#pragma unroll
      for (int k = 0; k < STEP; k++) {
        float x[EM], y[EN];
        row<EM, DOWN>(x, staged_a + k * PITCH_A, ty);
        row<EN, ACROSS>(y, staged_b + k * PITCH_B, tx);
#pragma unroll
        for (int i = 0; i < EM; i++)
#pragma unroll
          for (int j = 0; j < EN; j++)
            sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
      }
      __syncthreads();
    }

    if constexpr (GROUPS > 1) {
#pragma unroll
      for (int i = 0; i < EM; i++)
#pragma unroll
        for (int j = 0; j < EN; j++)
          shared[group * BM * BN + spread<EM, DOWN>(ty, i) * BN + spread<EN, ACROSS>(tx, j)] = sum[i][j];
      __syncthreads();
      for (int at = threadIdx.x; at < BM * BN; at += THREADS * GROUPS) {
        int m = m0 + at / BN, n = n0 + at % BN;
        float total = __fadd_rn(__fadd_rn(shared[at], shared[at + BM * BN]),
                                __fadd_rn(shared[at + 2 * BM * BN], shared[at + 3 * BM * BN]));
        if (m < e.m && n < e.n)
          fold(c + (u64)m * e.ldc + n, total, scale, accumulate);
      }
    } else {
#pragma unroll
      for (int i = 0; i < EM; i++) {
        int m = m0 + spread<EM, DOWN>(ty, i);
        if (m >= e.m)
          continue;
#pragma unroll
        for (int j = 0; j < EN; j++) {
          int n = n0 + spread<EN, ACROSS>(tx, j);
          if (n < e.n)
            fold(c + (u64)m * e.ldc + n, sum[i][j], scale, accumulate);
        }
      }
    }
  }

  static __device__ __forceinline__ void fold(float *out, float sum, float scale, bool accumulate) {
    *out = accumulate ? fmaf(scale, sum, *out) : __fmul_rn(scale, sum);
  }
};

// blockIdx.x counts tiles of rows, blockIdx.y tiles of columns.
#define PRODUCT(name, Matrix, LAYOUT, BM, BN, EM, EN, GROUPS)                                                          \
  extern "C" __global__ void __launch_bounds__(Tile<Matrix, LAYOUT, BM, BN, EM, EN, GROUPS>::THREADS *GROUPS)          \
      name(const float *a, const void *data, const u8 *codes, const float *scales, float offset, float *c, int m,      \
           int n, int k, int lda, int ldb, int ldc, float scale, int accumulate) {                                     \
    typedef Tile<Matrix, LAYOUT, BM, BN, EM, EN, GROUPS> Here;                                                         \
    __shared__ __align__(16) float shared[Here::FLOATS];                                                               \
    Extent e = {m, n, k, lda, ldb, ldc};                                                                               \
    Here::run(a, Matrix::of(data, codes, scales, offset), c, e, scale, accumulate != 0, blockIdx.x * BM,               \
              blockIdx.y * BN, shared);                                                                                \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define MIDDLE(kind, Matrix)                                                                                           \
  PRODUCT(matmul_nt_##kind, Matrix, NT, 64, 64, 4, 4, 1)                                                               \
  PRODUCT(matmul_nn_##kind, Matrix, NN, 64, 64, 4, 4, 1)
FOR_EACH_MATRIX(MIDDLE)

PRODUCT(matmul_nt_large, F32Matrix, NT, 128, 128, 8, 8, 1)
PRODUCT(matmul_nn_large, F32Matrix, NN, 128, 128, 8, 8, 1)

// At most 16 or 64 columns of a long sum: an adapter's way down.
PRODUCT(matmul_nt_narrow16, F32Matrix, NT, 32, 16, 4, 2, 4)
PRODUCT(matmul_nn_narrow16, F32Matrix, NN, 32, 16, 4, 2, 4)
PRODUCT(matmul_nt_narrow64, F32Matrix, NT, 32, 64, 4, 8, 4)
PRODUCT(matmul_nn_narrow64, F32Matrix, NN, 32, 64, 4, 8, 4)

// The sum of tn is cut into parts of `part` steps, one per blockIdx.z; with more than one part, `c` is a buffer of one
// [m, n] per part and the parts are summed by matmul_fold.
#define TALL(name, T, Matrix, BM, BN, EM, EN)                                                                          \
  extern "C" __global__ void __launch_bounds__(Tile<Matrix, TN, BM, BN, EM, EN, 1, T>::THREADS)                        \
      name(const T *a, const T *b, float *c, int m, int n, int k, int part, float scale, int accumulate) {             \
    typedef Tile<Matrix, TN, BM, BN, EM, EN, 1, T> Here;                                                               \
    __shared__ __align__(16) float shared[Here::FLOATS];                                                               \
    u64 first = (u64)blockIdx.z * part;                                                                                \
    Extent e = {m, n, k - (int)first < part ? k - (int)first : part, m, n, n};                                         \
    Matrix right = Matrix::of(b + first * n, nullptr, nullptr, 0);                                                                                    \
    Here::run(a + first * m, right, c + (u64)blockIdx.z * m * n, e, scale, accumulate != 0, blockIdx.x * BM,           \
              blockIdx.y * BN, shared);                                                                                \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

TALL(matmul_tn_middle_f32, float, F32Matrix, 64, 64, 4, 4)
TALL(matmul_tn_low_f32, float, F32Matrix, 16, 64, 2, 4)
TALL(matmul_tn_narrow_f32, float, F32Matrix, 64, 16, 4, 2)
#define TALL_NARROW(T)                                                                                                 \
  TALL(matmul_tn_middle_##T, T, NarrowMatrix<T>, 64, 64, 4, 4)                                                         \
  TALL(matmul_tn_narrow_##T, T, NarrowMatrix<T>, 64, 16, 4, 2)
FOR_NARROW(TALL_NARROW)

// out[i] = scale · Σ parts[p][i] (+ out[i]), the parts in ascending order.
extern "C" __global__ void __launch_bounds__(256)
    matmul_fold(const float *parts, float *out, u64 len, int count, float scale, int accumulate) {
  u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= len)
    return;
  float sum = parts[at];
  for (int part = 1; part < count; part++)
    sum = __fadd_rn(sum, parts[part * len + at]);
  out[at] = accumulate ? fmaf(scale, sum, out[at]) : __fmul_rn(scale, sum);
}
KERNEL_REGISTER(matmul_fold)
