// Loops over whole buffers and over rows. Each sum and product is rounded on its own, as the CPU rounds it.
#include "operands.cuh"

#define EACH_THREADS 256

// Place of a thread in a grid of EACH_THREADS.
__device__ __forceinline__ u64 place() { return (u64)blockIdx.x * EACH_THREADS + threadIdx.x; }

extern "C" __global__ void __launch_bounds__(EACH_THREADS) zero(float *out, u64 count) {
  if (place() < count)
    out[place()] = 0;
}
KERNEL_REGISTER(zero)

extern "C" __global__ void __launch_bounds__(EACH_THREADS) copy(const float *source, float *out, u64 count) {
  if (place() < count)
    out[place()] = source[place()];
}
KERNEL_REGISTER(copy)

extern "C" __global__ void __launch_bounds__(EACH_THREADS) add(const float *source, float *out, u64 count) {
  if (place() < count)
    out[place()] = __fadd_rn(out[place()], source[place()]);
}
KERNEL_REGISTER(add)

extern "C" __global__ void __launch_bounds__(EACH_THREADS) scale(float factor, float *out, u64 count) {
  if (place() < count)
    out[place()] = __fmul_rn(out[place()], factor);
}
KERNEL_REGISTER(scale)

// out[rows, width] += bias[width].
extern "C" __global__ void __launch_bounds__(EACH_THREADS)
    add_bias(const float *bias, u64 count, int width, float *out) {
  if (place() < count)
    out[place()] = __fadd_rn(out[place()], bias[place() % width]);
}
KERNEL_REGISTER(add_bias)

// out[rows, width] = x[rows, width] · factors[width] (+ out).
extern "C" __global__ void __launch_bounds__(EACH_THREADS)
    scale_columns(const float *x, const float *factors, u64 count, int width, int accumulate, float *out) {
  if (place() >= count)
    return;
  float value = __fmul_rn(x[place()], factors[place() % width]);
  out[place()] = accumulate ? __fadd_rn(out[place()], value) : value;
}
KERNEL_REGISTER(scale_columns)

#define NO_ROW 0xffffffffu

// out[i] = x[rows[i]]; zeros for NO_ROW. Grid: rows.
extern "C" __global__ void __launch_bounds__(EACH_THREADS)
    gather_rows(const float *x, const u32 *rows, int width, float *out) {
  u32 row = rows[blockIdx.x];
  for (int at = threadIdx.x; at < width; at += EACH_THREADS)
    out[(u64)blockIdx.x * width + at] = row == NO_ROW ? 0 : x[(u64)row * width + at];
}
KERNEL_REGISTER(gather_rows)

// out[i] = Σ x[rows[j]] for j from offsets[i] to offsets[i + 1], in that order. Grid: sums.
extern "C" __global__ void __launch_bounds__(EACH_THREADS)
    sum_rows(const float *x, const u32 *offsets, const u32 *rows, int width, float *out) {
  u32 first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
  for (int at = threadIdx.x; at < width; at += EACH_THREADS) {
    float sum = first < end ? x[(u64)rows[first] * width + at] : 0;
    for (u32 other = first + 1; other < end; other++) sum = __fadd_rn(sum, x[(u64)rows[other] * width + at]);
    out[(u64)blockIdx.x * width + at] = sum;
  }
}
KERNEL_REGISTER(sum_rows)

// out[rows[i]] = x[i]. Grid: rows.
extern "C" __global__ void __launch_bounds__(EACH_THREADS)
    scatter_rows(const float *x, const u32 *rows, int width, float *out) {
  for (int at = threadIdx.x; at < width; at += EACH_THREADS)
    out[(u64)rows[blockIdx.x] * width + at] = x[(u64)blockIdx.x * width + at];
}
KERNEL_REGISTER(scatter_rows)
