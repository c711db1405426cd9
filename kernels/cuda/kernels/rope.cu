// Rotary position embedding in place: element i of a head pairs with element i + d / 2.
#include "values.cuh"

// x is [tokens, heads, 2 · half], `count` pairs in all; the tables are [table_rows, half]. `sign` is 1, or -1 for the
// inverse. A position outside the tables makes NaNs. Products and sums are rounded as the CPU rounds them. Grid: pairs / 256.
template <class T>
__device__ __forceinline__ void rotate(T *x, const u32 *positions, const float *cos, const float *sin, u64 count,
                                       int heads, int half, int table_rows, float sign) {
  u64 index = (u64)blockIdx.x * 256 + threadIdx.x;
  if (index >= count) return;
  u64 head = index / half;
  int at = (int)(index - head * half);
  u32 position = positions[head / heads];
  T *low = x + head * 2 * half + at, *high = low + half;
  if (position >= (u32)table_rows) {
    store_one(low, quiet_nan());
    store_one(high, quiet_nan());
    return;
  }
  float c = cos[(u64)position * half + at], s = __fmul_rn(sign, sin[(u64)position * half + at]);
  float a = load_one(low), b = load_one(high);
  store_one(low, fmaf(a, c, -__fmul_rn(b, s)));
  store_one(high, fmaf(b, c, __fmul_rn(a, s)));
}

#define ROPE(T)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      rope_##T(T *x, const u32 *positions, const float *cos, const float *sin, u64 count, int heads, int half,             \
           int table_rows, float sign) {                                                                               \
    rotate<T>(x, positions, cos, sin, count, heads, half, table_rows, sign);                                           \
  }                                                                                                                    \
  KERNEL_REGISTER(rope_##T)
FOR_ACTIVATIONS(ROPE)
