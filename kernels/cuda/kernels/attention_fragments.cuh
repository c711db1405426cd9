// What the kernels of attention on the tensor cores share: factors in sixteen bits, f32 sums and softmax. Heads have D elements, a
// multiple of 16, and start on sixteen bytes.
#pragma once
#include "attention_tiles.cuh"
#include "tensor_core.cuh"

#define LOG2_E 1.44269504f
#define LN_2 0.693147181f

// ROWS rows of a head in sixteen bits, sixteen bytes apart from a whole number of banks. Those of f32 arrive in a stage,
// and every thread narrows what it copied itself, to bf16; those of sixteen bits arrive where they are used.
template <int D, int ROWS, int THREADS, class T> struct HeadTile {
  static const int PITCH = D + 8;
  static const int BYTES = ROWS * PITCH * 2;
  static const int STAGE_BYTES = BYTES;
  static const int EIGHTS = ROWS * D / 8;

  static __device__ __forceinline__ void fetch(const HeadRows<T> &from, u8 *, u16 *tile) {
#pragma unroll
    for (int at = threadIdx.x; at < EIGHTS; at += THREADS) {
      int row = at / (D / 8), place = at % (D / 8) * 8;
      bool present = row < from.count;
      copy_sixteen(tile + row * PITCH + place, from.row + (present ? (u64)row * from.width + place : 0), present);
    }
    copies_commit();
  }
  static __device__ __forceinline__ void narrow(const u8 *, u16 *) {}
};

template <int D, int ROWS, int THREADS> struct HeadTile<D, ROWS, THREADS, float> {
  static const int PITCH = D + 8;
  static const int BYTES = ROWS * PITCH * 2;
  static const int STAGE_BYTES = ROWS * D * 4;
  static const int CHUNKS = ROWS * D / 4 / THREADS;

  static __device__ __forceinline__ void fetch(const HeadRows<float> &from, u8 *stage, u16 *) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
      int at = threadIdx.x + chunk * THREADS, row = at / (D / 4);
      bool valid = row < from.count;
      copy_sixteen(stage + at * 16, from.row + (valid ? (u64)row * from.width + at % (D / 4) * 4 : 0), valid);
    }
    copies_commit();
  }
  static __device__ __forceinline__ void narrow(const u8 *stage, u16 *tile) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
      int at = threadIdx.x + chunk * THREADS;
      float4 quad = *(const float4 *)(stage + at * 16);
      uint2 both;
      both.x = bf16::pack(quad.x, quad.y);
      both.y = bf16::pack(quad.z, quad.w);
      *(uint2 *)(tile + at / (D / 4) * PITCH + at % (D / 4) * 4) = both;
    }
  }
};

// Sixteen rows and sixteen elements from `tile` on, as the left factor.
template <int PITCH> __device__ __forceinline__ void load_left(u32 (&to)[4], const u16 *tile) {
  int lane = threadIdx.x & 31;
  load_matrices(to, tile + (lane & 15) * PITCH + (lane >> 4) * 8);
}

// sums[16, 8 N] += left · rowsᵀ, for one step of sixteen elements of 8 N rows.
template <class Element, int N, int PITCH>
__device__ __forceinline__ void add_row_products(const u32 (&left)[4], const u16 *rows, float (&sums)[N][4]) {
  int lane = threadIdx.x & 31;
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    u32 right[4];
    load_matrices(right, rows + (n * 8 + (lane & 7) + (lane >> 4) * 8) * PITCH + (lane >> 3 & 1) * 8);
    Element::multiply(sums[n], left, right[0], right[1]);
    Element::multiply(sums[n + 1], left, right[2], right[3]);
  }
}

// sums[16, 8 N] = sixteen rows of `left` · rowsᵀ.
template <class Element, int D, int N, int PITCH>
__device__ __forceinline__ void row_products(const u16 *left, const u16 *rows, float (&sums)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[n][i] = 0;
#pragma unroll
  for (int at = 0; at < D; at += 16) {
    u32 factors[4];
    load_left<PITCH>(factors, left + at);
    add_row_products<Element, N, PITCH>(factors, rows + at, sums);
  }
}

// sums[16, D] += weights[16, 8 N] · rows[8 N, D].
template <class Element, int D, int N, int PITCH>
__device__ __forceinline__ void add_weighted_rows(const float (&weights)[N][4], const u16 *rows, float (&sums)[D / 8][4]) {
  typedef typename Element::Narrow Narrow;
  int lane = threadIdx.x & 31;
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    u32 left[4] = {Narrow::pack(weights[n][0], weights[n][1]), Narrow::pack(weights[n][2], weights[n][3]),
                   Narrow::pack(weights[n + 1][0], weights[n + 1][1]), Narrow::pack(weights[n + 1][2], weights[n + 1][3])};
#pragma unroll
    for (int at = 0; at < D; at += 16) {
      u32 right[4];
      load_matrices_transposed(right, rows + (n * 8 + (lane & 15)) * PITCH + at + (lane >> 4) * 8);
      Element::multiply(sums[at / 8], left, right[0], right[1]);
      Element::multiply(sums[at / 8 + 1], left, right[2], right[3]);
    }
  }
}

// Row and column of sum `i` of the `n`-th eight columns, inside the sixteen rows of a warp.
__device__ __forceinline__ int fragment_row(int i) { return (threadIdx.x >> 2 & 7) + (i >> 1) * 8; }
__device__ __forceinline__ int fragment_column(int n, int i) { return n * 8 + (threadIdx.x & 3) * 2 + (i & 1); }

// Writes the sums of sixteen rows, times a factor per half, to a head of a matrix [rows, width]; `count` rows exist.
template <int D, class T>
__device__ __forceinline__ void store_fragments(T *row, int width, int count, const float (&sums)[D / 8][4],
                                                float upper, float lower) {
#pragma unroll
  for (int n = 0; n < D / 8; n++) {
    if (fragment_row(0) < count)
      store_two(row + (u64)fragment_row(0) * width + fragment_column(n, 0), sums[n][0] * upper, sums[n][1] * upper);
    if (fragment_row(2) < count)
      store_two(row + (u64)fragment_row(2) * width + fragment_column(n, 0), sums[n][2] * lower, sums[n][3] * lower);
  }
}
