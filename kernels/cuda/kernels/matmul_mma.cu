// Products on the tensor cores: activations in bf16 or f16 times a frozen matrix of the same type, or f32 activations,
// narrowed while they are staged, times one in f16; sums in f32.
//
//   nt: C[M,N] = old + scale · (A[M,K] · B[N,K]ᵀ + L[M,R] · F[N,R]ᵀ · by)
//   nn: C[M,N] = old + scale · (A[M,K] · B[K,N] + L[M,R] · F[R,N] · by)
//
// L and F are an adapter's: its product goes on where the sum over K ends, so the update costs no pass of its own.
//
// Each element is one chain of products of 16 steps of k in ascending order, in every tile, so a row's bits depend on
// that row, on the matrices and on k alone. The scaled kernels, of f32 activations, take the power of two that each row of
// A is divided by before it is narrowed, so that none overflows; the others take none, and the scaled ones no adapter.
#include "tensor_core.cuh"

template <class Element> struct Product {
  const typename Element::Left *a;
  const u16 *b;
  // f32, or sixteen bits if `narrow`; `old` is of the same type and may be the same memory, or null.
  void *c;
  const void *old;
  int narrow;
  const float *powers;
  // The adapter, in sixteen bits and f32; rank 0 without one.
  const u16 *low;
  const float *factor;
  int rank;
  float by;
  int m, n, k;
  // Elements from one row to the next.
  int lda, ldb, ldc;
  float scale;
};

// Writes sums of one row and two neighbouring columns.
template <class T>
__device__ __forceinline__ void fold_into(T *c, const T *old, int ldc, int n, int row, int column, float scale, float x,
                                          float y) {
  u64 at = (u64)row * ldc + column;
  if (column + 1 < n && ldc % 2 == 0 && ((u64)c | (u64)old) % (2 * sizeof(T)) == 0) {
    float2 before = make_float2(0, 0);
    if (old)
      before = load_two(old + at);
    store_two(c + at, old ? fmaf(scale, x, before.x) : __fmul_rn(scale, x),
              old ? fmaf(scale, y, before.y) : __fmul_rn(scale, y));
    return;
  }
  store_one(c + at, old ? fmaf(scale, x, load_one(old + at)) : __fmul_rn(scale, x));
  if (column + 1 < n)
    store_one(c + at + 1, old ? fmaf(scale, y, load_one(old + at + 1)) : __fmul_rn(scale, y));
}

template <class Element>
__device__ __forceinline__ void fold_pair(const Product<Element> &p, int row, int column, float x, float y) {
  typedef typename Element::Narrow Narrow;
  if (row >= p.m || column >= p.n)
    return;
  float scale = Element::SCALED ? __fmul_rn(p.scale, p.powers[row]) : p.scale;
  if (p.narrow)
    fold_into((Narrow *)p.c, (const Narrow *)p.old, p.ldc, p.n, row, column, scale, x, y);
  else
    fold_into((float *)p.c, (const float *)p.old, p.ldc, p.n, row, column, scale, x, y);
}

// Four elements of a row of A, zeros outside; the row's power of two is divided out.
template <class Element>
__device__ __forceinline__ float4 left_quad(const Product<Element> &p, int row, int k, bool vector) {
  float4 out = make_float4(0, 0, 0, 0);
  if (row >= p.m || k >= p.k)
    return out;
  const typename Element::Left *from = p.a + (u64)row * p.lda + k;
  if (vector) {
    out = load_four(from);
  } else {
    int count = p.k - k;
    out.x = load_one(from);
    if (count > 1)
      out.y = load_one(from + 1);
    if (count > 2)
      out.z = load_one(from + 2);
    if (count > 3)
      out.w = load_one(from + 3);
  }
  if (Element::SCALED) {
    float by = value_of_bits(0x7f000000u - bits_of_value(p.powers[row]));
    out = make_float4(__fmul_rn(out.x, by), __fmul_rn(out.y, by), __fmul_rn(out.z, by), __fmul_rn(out.w, by));
  }
  return out;
}

template <class Element, bool TRANSPOSED, bool ALIGNED, int BM, int BN, int WM, int WN, int STAGES> struct MmaTile {
  // Steps of k that are staged at once.
  static const int STEP = 32;
  // Rows of tiles that run next to each other, so that their tiles of B are still in the cache.
  static const int GROUP = 8;
  static const int ACROSS = BN / WN;
  static const int THREADS = BM / WM * ACROSS * 32;
  static const int A_BYTES = BM * STEP * 2;
  static const int B_BYTES = BN * STEP * 2;
  // Whether A arrives as B does; else it passes through registers.
  static const bool DIRECT = !Element::SCALED;
  static const int A_STAGES = DIRECT ? STAGES : 2;
  static const int SHARED = A_STAGES * A_BYTES + STAGES * B_BYTES;
  static const int QUADS = BM * STEP / 4 / THREADS;
  typedef Product<Element> Here;
  typedef typename Element::Narrow Narrow;
  static const int CHUNKS = BN * STEP / 8 / THREADS;

  // Where sixteen bytes, eight elements, of a staged tile are: exchanged among rows so that the eight rows that a load
  // of matrices reads lie in different banks.
  static __device__ __forceinline__ int place_a(int row, int chunk) {
    return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4);
  }
  static __device__ __forceinline__ int place_b(int row, int chunk) {
    return TRANSPOSED ? place_a(row, chunk) : row * (BN * 2) + ((chunk ^ (row & 7)) << 4);
  }

  // Eight elements of a row in sixteen bits, zeros from `count` on.
  static __device__ __forceinline__ void stage_eight(u8 *at, const u16 *from, int count, bool vector) {
    if (vector || count <= 0) {
      copy_sixteen(at, from, count > 0);
    } else {
      for (int j = 0; j < 8; j++)
        ((u16 *)at)[j] = j < count ? from[j] : (u16)0;
    }
  }

  // Rows past the last are read as the last and give sums that are not kept.
  static __device__ __forceinline__ void stage_a(const u16 *a, int lda, int m, int k, u8 *to, int m0, int k0,
                                                 bool vector) {
#pragma unroll
    for (int at = threadIdx.x; at < BM * STEP / 8; at += THREADS) {
      int row = m0 + at / 4, start = k0 + at % 4 * 8;
      row = row < m ? row : m - 1;
      stage_eight(to + place_a(at / 4, at % 4), a + (start < k ? (u64)row * lda + start : 0), k - start, vector);
    }
  }

  // The adapter's factor, narrowed.
  static __device__ __forceinline__ void stage_factor(const Here &p, u8 *to, int n0, int k0) {
    const int across = TRANSPOSED ? 4 : BN / 8;
#pragma unroll
    for (int at = threadIdx.x; at < BN * STEP / 8; at += THREADS) {
      int row = at / across, chunk = at % across;
      int n = n0 + (TRANSPOSED ? row : chunk * 8), k = k0 + (TRANSPOSED ? chunk * 8 : row);
      float values[8];
#pragma unroll
      for (int j = 0; j < 8; j++) {
        int column = TRANSPOSED ? n : n + j, step = TRANSPOSED ? k + j : k;
        bool valid = column < p.n && step < p.rank;
        values[j] = valid ? p.by * p.factor[TRANSPOSED ? (u64)column * p.rank + step : (u64)step * p.n + column] : 0.0f;
      }
      *(uint4 *)(to + place_b(row, chunk)) =
          make_uint4(Narrow::pack(values[0], values[1]), Narrow::pack(values[2], values[3]),
                     Narrow::pack(values[4], values[5]), Narrow::pack(values[6], values[7]));
    }
  }

  // Columns past the last are read as the last and give sums that are not kept.
  static __device__ __forceinline__ void stage_b(const Here &p, u8 *to, int n0, int k0, bool vector) {
    const int across = TRANSPOSED ? 4 : BN / 8;
    const int row = threadIdx.x / across, chunk = threadIdx.x % across;
    u8 *at = to + place_b(row, chunk);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++, at += THREADS / across * (TRANSPOSED ? 64 : BN * 2)) {
      int n = n0 + (TRANSPOSED ? row + i * (THREADS / across) : chunk * 8);
      int k = k0 + (TRANSPOSED ? chunk * 8 : row + i * (THREADS / across));
      if (ALIGNED) {
        int last = TRANSPOSED ? p.n - 1 : p.n - 8;
        n = n < last ? n : last;
        copy_sixteen(at, p.b + (TRANSPOSED ? (u64)n * p.ldb + k : (u64)k * p.ldb + n), k < p.k);
        continue;
      }
      bool valid = n < p.n && k < p.k;
      const u16 *from = valid ? p.b + (TRANSPOSED ? (u64)n * p.ldb + k : (u64)k * p.ldb + n) : p.b;
      if (vector) {
        copy_sixteen(at, from, valid);
      } else {
        int count = !valid ? 0 : TRANSPOSED ? p.k - k : p.n - n;
        for (int j = 0; j < 8; j++)
          ((u16 *)at)[j] = j < count ? from[j] : (u16)0;
      }
    }
  }

  static __device__ __forceinline__ void run(const Here &p, u8 *shared) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int rows = (p.m + BM - 1) / BM, columns = (p.n + BN - 1) / BN;
    const int group = blockIdx.x / (GROUP * columns), inside = blockIdx.x % (GROUP * columns);
    const int high = rows - group * GROUP < GROUP ? rows - group * GROUP : GROUP;
    const int m0 = (group * GROUP + inside % high) * BM, n0 = inside / high * BN;
    const int wm = warp / ACROSS * WM, wn = warp % ACROSS * WN;
    const int eight = DIRECT ? 8 : 4;
    const bool vector_a = ALIGNED || (p.lda % eight == 0 && p.k % eight == 0 && (u64)p.a % 16 == 0);
    const bool vector_low = p.rank % 8 == 0 && (u64)p.low % 16 == 0;
    const bool vector_b = ALIGNED || (p.ldb % 8 == 0 && (TRANSPOSED ? p.k : p.n) % 8 == 0 && (u64)p.b % 16 == 0);
    u8 *staged_a = shared, *staged_b = shared + A_STAGES * A_BYTES;
    const int own = (p.k + STEP - 1) / STEP, steps = own + (DIRECT ? (p.rank + STEP - 1) / STEP : 0);
    float4 next[QUADS > 0 ? QUADS : 1];
    float sum[WM / 16][WN / 8][4] = {};

    auto fetch_a = [&](int step) {
#pragma unroll
      for (int i = 0; i < QUADS; i++) {
        int quad = threadIdx.x + i * THREADS;
        next[i] = left_quad<Element>(p, m0 + quad / 8, step * STEP + quad % 8 * 4, vector_a);
      }
    };
    auto keep_a = [&](int step) {
      u8 *to = staged_a + (step & 1) * A_BYTES + place_a(threadIdx.x / 8, threadIdx.x % 8 / 2) + threadIdx.x % 2 * 8;
#pragma unroll
      for (int i = 0; i < QUADS; i++) {
        uint2 *at = (uint2 *)(to + i * (THREADS / 8) * 64);
        *at = make_uint2(Narrow::pack(next[i].x, next[i].y), Narrow::pack(next[i].z, next[i].w));
      }
    };
    auto stage = [&](int step) {
      u8 *to_a = staged_a + step % A_STAGES * A_BYTES, *to_b = staged_b + step % STAGES * B_BYTES;
      if (step < own) {
        if constexpr (DIRECT)
          stage_a((const u16 *)p.a, p.lda, p.m, p.k, to_a, m0, step * STEP, vector_a);
        stage_b(p, to_b, n0, step * STEP, vector_b);
      } else if constexpr (DIRECT) {
        stage_a(p.low, p.rank, p.m, p.rank, to_a, m0, (step - own) * STEP, vector_low);
        stage_factor(p, to_b, n0, (step - own) * STEP);
      }
    };

    // Sixteen rows on, the exchange of chunks is the same; two chunks on, one bit of the place differs.
    const int at_a = place_a(wm + (lane & 15), lane >> 4);
    const int at_b = TRANSPOSED ? place_b(wn + (lane & 7) + (lane >> 4 << 3), lane >> 3 & 1)
                                : place_b(lane & 15, wn / 8 + (lane >> 4));

    for (int step = 0; step < STAGES - 1; step++) {
      if (step < steps)
        stage(step);
      copies_commit();
    }
    if (!DIRECT && steps > 0) {
      fetch_a(0);
      keep_a(0);
    }
    if (!DIRECT && steps > 1)
      fetch_a(1);

    for (int step = 0; step < steps; step++) {
      copies_wait<STAGES - 2>();
      __syncthreads();
      int later = step + STAGES - 1;
      if (later < steps)
        stage(later);
      copies_commit();

      const u8 *tile_a = staged_a + step % A_STAGES * A_BYTES;
      const u8 *tile_b = staged_b + step % STAGES * B_BYTES;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 b[WN / 16][4];
#pragma unroll
        for (int j = 0; j < WN / 16; j++) {
          if (TRANSPOSED)
            load_matrices(b[j], tile_b + j * 16 * 64 + (at_b ^ half * 32));
          else
            load_matrices_transposed(b[j], tile_b + half * 16 * BN * 2 + (at_b ^ j * 32));
        }
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
          u32 a[4];
          load_matrices(a, tile_a + i * 16 * 64 + (at_a ^ half * 32));
#pragma unroll
          for (int j = 0; j < WN / 16; j++) {
            Element::multiply(sum[i][j * 2], a, b[j][0], b[j][1]);
            Element::multiply(sum[i][j * 2 + 1], a, b[j][2], b[j][3]);
          }
        }
      }
      if (!DIRECT && step + 1 < steps)
        keep_a(step + 1);
      if (!DIRECT && step + 2 < steps)
        fetch_a(step + 2);
    }

#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
      for (int j = 0; j < WN / 8; j++) {
        int row = m0 + wm + i * 16 + (lane >> 2), column = n0 + wn + j * 8 + (lane & 3) * 2;
        fold_pair<Element>(p, row, column, sum[i][j][0], sum[i][j][1]);
        fold_pair<Element>(p, row + 8, column, sum[i][j][2], sum[i][j][3]);
      }
  }
};

#define MMA(name, Element, TRANSPOSED, ALIGNED, BM, BN, WM, WN, STAGES, BLOCKS)                                        \
  extern "C" __global__ void __launch_bounds__(MmaTile<Element, TRANSPOSED, ALIGNED, BM, BN, WM, WN, STAGES>::THREADS, \
                                               BLOCKS)                                                                 \
      name(const Element::Left *a, const u16 *b, void *c, const void *old, int narrow, const float *powers,            \
           const u16 *low, const float *factor, int rank, float by, int m, int n, int k, int lda, int ldb, int ldc,    \
           float scale) {                                                                                              \
    typedef MmaTile<Element, TRANSPOSED, ALIGNED, BM, BN, WM, WN, STAGES> Tile;                                        \
    __shared__ __align__(16) u8 shared[Tile::SHARED];                                                                  \
    Tile::run({a, b, c, old, narrow, powers, low, factor, rank, by, m, n, k, lda, ldb, ldc, scale}, shared);           \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define MMA_TILES(name, Element, WN, STAGES, BLOCKS)                                                                   \
  MMA(name##_nt_large, Element, true, true, 128, 128, 64, WN, STAGES, BLOCKS)                                          \
  MMA(name##_nn_large, Element, false, true, 128, 128, 64, WN, STAGES, BLOCKS)                                         \
  MMA(name##_nt_middle, Element, true, false, 64, 64, 32, 32, 3, 4)                                                    \
  MMA(name##_nn_middle, Element, false, false, 64, 64, 32, 32, 3, 4)                                                   \
  MMA(name##_nt_small, Element, true, false, 16, 64, 16, 16, 4, 4)                                                     \
  MMA(name##_nn_small, Element, false, false, 16, 64, 16, 16, 4, 4)

// A few rows times a matrix in NF4, [N,K] with K a multiple of 64, without a copy of the matrix in between: packed
// codes travel to shared memory ahead of their use, each warp decodes eight rows of the matrix into its fragments.
template <class Element> struct FewRows {
  // Steps of k that are decoded between barriers, and such spans on their way.
  static const int SPAN = 128;
  static const int AHEAD = 6;
  // Sixteen more bytes keep the rows of codes in different banks.
  static const int CODES_PITCH = SPAN / 2 + 16;
  static const int LEFT_PITCH = SPAN + 8;
  static const int CODES_BYTES = 8 * CODES_PITCH;
  static const int LEFT_BYTES = 16 * LEFT_PITCH * 2;
  static const int SHARED = 4 * AHEAD * CODES_BYTES + 2 * LEFT_BYTES;

  static __device__ __forceinline__ void run(const Product<Element> &p, const Nf4Matrix &w, u8 *shared, float *code) {
    typedef typename Element::Narrow Narrow;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int m0 = blockIdx.y * 16, n0 = blockIdx.x * 32 + warp * 8;
    const int n = n0 + (lane >> 2);
    const bool vector = p.lda % 4 == 0 && (u64)p.a % 16 == 0;
    u8 *ring = shared + warp * (AHEAD * CODES_BYTES);
    u8 *left = shared + 4 * AHEAD * CODES_BYTES;
    const int spans = (p.k + SPAN - 1) / SPAN;
    float4 next[4];
    float sum[4] = {};
    if (threadIdx.x < 16)
      code[threadIdx.x] = NF4_CODE[threadIdx.x];

    auto stage_codes = [&](int span) {
      int k = span * SPAN + (lane & 3) * 32;
      bool valid = n < p.n && k < p.k;
      const u8 *from = valid ? w.packed + ((u64)n * p.k + k) / 2 : w.packed;
      copy_sixteen(ring + span % AHEAD * CODES_BYTES + (lane >> 2) * CODES_PITCH + (lane & 3) * 16, from, valid);
    };
    auto fetch_a = [&](int span) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int quad = threadIdx.x + i * 128;
        next[i] = left_quad<Element>(p, m0 + quad / 32, span * SPAN + quad % 32 * 4, vector);
      }
    };
    auto keep_a = [&](int span) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int quad = threadIdx.x + i * 128;
        uint2 *at = (uint2 *)(left + (span & 1) * LEFT_BYTES + (quad / 32 * LEFT_PITCH + quad % 32 * 4) * 2);
        *at = make_uint2(Narrow::pack(next[i].x, next[i].y), Narrow::pack(next[i].z, next[i].w));
      }
    };
    // The scales of both blocks of a span; zero outside, where the codes are not those of zero.
    auto scale_at = [&](int span, int half) {
      int k = span * SPAN + half * NF4_BLOCK;
      return n < p.n && k < p.k ? w.scale(((u64)n * p.k + k) / NF4_BLOCK) : 0.0f;
    };

    for (int span = 0; span < AHEAD - 1; span++) {
      if (span < spans)
        stage_codes(span);
      copies_commit();
    }
    fetch_a(0);
    keep_a(0);
    if (spans > 1)
      fetch_a(1);
    float scales[2] = {scale_at(0, 0), scale_at(0, 1)};

    for (int span = 0; span < spans; span++) {
      copies_wait<AHEAD - 2>();
      __syncthreads();
      int later = span + AHEAD - 1;
      if (later < spans)
        stage_codes(later);
      copies_commit();
      float coming[2] = {scale_at(span + 1, 0), scale_at(span + 1, 1)};

      const u8 *row = ring + span % AHEAD * CODES_BYTES + (lane >> 2) * CODES_PITCH;
      const u8 *tile_a = left + (span & 1) * LEFT_BYTES;
#pragma unroll
      for (int sixteen = 0; sixteen < SPAN / 16; sixteen++) {
        float by = scales[sixteen / 4];
        uint2 words = *(const uint2 *)(row + sixteen * 8);
        u32 low = words.x >> (lane & 3) * 8, high = words.y >> (lane & 3) * 8;
        u32 b0 = Narrow::pack(__fmul_rn(code[low >> 4 & 15], by), __fmul_rn(code[low & 15], by));
        u32 b1 = Narrow::pack(__fmul_rn(code[high >> 4 & 15], by), __fmul_rn(code[high & 15], by));
        u32 a[4];
        load_matrices(a, tile_a + ((lane & 15) * LEFT_PITCH + sixteen * 16 + (lane >> 4) * 8) * 2);
        Element::multiply(sum, a, b0, b1);
      }
      scales[0] = coming[0];
      scales[1] = coming[1];
      if (span + 1 < spans)
        keep_a(span + 1);
      if (span + 2 < spans)
        fetch_a(span + 2);
    }
    // The adapter's steps, straight from memory: they are few.
    for (int at = 0; at < p.rank; at += 16) {
      u32 a[4], b[2];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int row = m0 + (lane >> 2) + (i & 1) * 8, k = at + (i >> 1) * 8 + (lane & 3) * 2;
        u32 low = row < p.m && k < p.rank ? p.low[(u64)row * p.rank + k] : 0;
        u32 high = row < p.m && k + 1 < p.rank ? p.low[(u64)row * p.rank + k + 1] : 0;
        a[i] = low | high << 16;
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int k = at + i * 8 + (lane & 3) * 2;
        const float *factor = p.factor + (u64)n * p.rank + k;
        b[i] = Narrow::pack(n < p.n && k < p.rank ? p.by * factor[0] : 0.0f,
                            n < p.n && k + 1 < p.rank ? p.by * factor[1] : 0.0f);
      }
      Element::multiply(sum, a, b[0], b[1]);
    }
    int row = m0 + (lane >> 2), column = n0 + (lane & 3) * 2;
    fold_pair<Element>(p, row, column, sum[0], sum[1]);
    fold_pair<Element>(p, row + 8, column, sum[2], sum[3]);
  }
};

#define FEW_ROWS(name, Element)                                                                                        \
  extern "C" __global__ void __launch_bounds__(128)                                                                    \
      name(const Element::Left *a, const u8 *packed, const u8 *codes, const float *scales, float offset, void *c,      \
           const void *old, int narrow, const float *powers, const u16 *low, const float *factor, int rank, float by,  \
           int m, int n, int k, float scale) {                                                                         \
    __shared__ __align__(16) u8 shared[FewRows<Element>::SHARED];                                                      \
    __shared__ float code[16];                                                                                         \
    FewRows<Element>::run({a, nullptr, c, old, narrow, powers, low, factor, rank, by, m, n, k, k, k, n, scale},        \
                          Nf4Matrix::of(packed, codes, scales, offset), shared, code);                                 \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

FOR_BF16(MMA_TILES(mma_bf16, Brain, 64, 3, 2))
FOR_BF16(FEW_ROWS(mma_bf16_nf4, Brain))
// Devices with bf16 have no use for these. Where copies are not asynchronous, a third stage would only keep a second block
// out of the 64 KiB of a multiprocessor.
FOR_F16(MMA_TILES(mma_f16, Half, 32, 2, 2))
FOR_F16(FEW_ROWS(mma_f16_nf4, Half))
FOR_F16(MMA_TILES(mma_scaled, ScaledHalf, 32, 3, 1))
FOR_F16(FEW_ROWS(mma_scaled_nf4, ScaledHalf))

// The power of two next below the greatest size in each row of a[m,k]: what the scaled kernels divide by. One for a row of
// zeros; a row with an infinity or NaN keeps it.
extern "C" __global__ void __launch_bounds__(256) row_powers(const float *a, int m, int k, int lda, float *powers) {
  __shared__ u32 tops[8];
  const float *row = a + (u64)blockIdx.x * lda;
  u32 top = 0;
  for (int i = threadIdx.x; i < k; i += 256) {
    u32 size = bits_of_value(row[i]) & 0x7fffffffu;
    top = size > top ? size : top;
  }
  for (int step = 16; step > 0; step /= 2) {
    u32 other = __shfl_xor_sync(0xffffffffu, top, step);
    top = other > top ? other : top;
  }
  if (threadIdx.x % 32 == 0)
    tops[threadIdx.x / 32] = top;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < 8; i++)
      top = tops[i] > top ? tops[i] : top;
    u32 exponent = top >> 23;
    powers[blockIdx.x] = top == 0 || exponent == 255 ? 1.0f
                                                     : value_of_bits((exponent < 2     ? 2
                                                                      : exponent > 252 ? 252
                                                                                       : exponent)
                                                                     << 23);
  }
}
KERNEL_REGISTER(row_powers)
