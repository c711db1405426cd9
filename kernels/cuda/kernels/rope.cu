// Rotary position embedding in place: element i of a head pairs with element i + d / 2.
#include "values.cuh"

// x is [tokens, heads, 2 · half], `count` pairs in all; the tables are [table_rows, half]. `sign` is 1, or -1 for the
// inverse. A position outside the tables makes NaNs. Products and sums are rounded as the CPU rounds them. Grid: pairs / 256.
extern "C" __global__ void __launch_bounds__(256)
    rope(float *x, const u32 *positions, const float *cos, const float *sin, u64 count, int heads, int half,
         int table_rows, float sign) {
  u64 index = (u64)blockIdx.x * 256 + threadIdx.x;
  if (index >= count) return;
  u64 head = index / half;
  int at = (int)(index - head * half);
  u32 position = positions[head / heads];
  float *low = x + head * 2 * half + at, *high = low + half;
  if (position >= (u32)table_rows) {
    *low = *high = quiet_nan();
    return;
  }
  float c = cos[(u64)position * half + at], s = __fmul_rn(sign, sin[(u64)position * half + at]);
  float a = *low, b = *high;
  *low = fmaf(a, c, -__fmul_rn(b, s));
  *high = fmaf(b, c, __fmul_rn(a, s));
}
KERNEL_REGISTER(rope)
