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

// Each kernel is made for the types of what it reads and of what it writes.
#define COPY(name, From, To)                                                                                           \
  extern "C" __global__ void __launch_bounds__(EACH_THREADS) name(const From *source, To *out, u64 count) {            \
    if (place() < count)                                                                                               \
      store_one(out + place(), load_one(source + place()));                                                            \
  }                                                                                                                    \
  KERNEL_REGISTER(name)
COPY(copy_f32_f32, float, float)
#define COPY_NARROW(T) COPY(copy_f32_##T, float, T) COPY(copy_##T##_##T, T, T)
FOR_NARROW(COPY_NARROW)

#define ADD_AND_SCALE(T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(EACH_THREADS) add_##T(const T *source, T *out, u64 count) {        \
    if (place() < count)                                                                                               \
      store_one(out + place(), __fadd_rn(load_one(out + place()), load_one(source + place())));                        \
  }                                                                                                                    \
  KERNEL_REGISTER(add_##T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(EACH_THREADS) scale_##T(float factor, T *out, u64 count) {         \
    if (place() < count)                                                                                               \
      store_one(out + place(), __fmul_rn(load_one(out + place()), factor));                                            \
  }                                                                                                                    \
  KERNEL_REGISTER(scale_##T)
FOR_ACTIVATIONS(ADD_AND_SCALE)

// out[rows, width] += bias[width].
#define ADD_BIAS(T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(EACH_THREADS)                                                           \
      add_bias_##T(const float *bias, u64 count, int width, T *out) {                                                  \
    if (place() < count)                                                                                               \
      store_one(out + place(), __fadd_rn(load_one(out + place()), bias[place() % width]));                             \
  }                                                                                                                    \
  KERNEL_REGISTER(add_bias_##T)
FOR_ACTIVATIONS(ADD_BIAS)

// out[rows, width] = x[rows, width] · factors[width] (+ out).
#define SCALE_COLUMNS(name, From, To)                                                                                  \
  extern "C" __global__ void __launch_bounds__(EACH_THREADS)                                                           \
      name(const From *x, const float *factors, u64 count, int width, int accumulate, To *out) {                       \
    if (place() >= count)                                                                                              \
      return;                                                                                                          \
    float value = __fmul_rn(load_one(x + place()), factors[place() % width]);                                          \
    store_one(out + place(), accumulate ? __fadd_rn(load_one(out + place()), value) : value);                          \
  }                                                                                                                    \
  KERNEL_REGISTER(name)
SCALE_COLUMNS(scale_columns_f32_f32, float, float)
#define SCALE_COLUMNS_NARROW(T) SCALE_COLUMNS(scale_columns_##T##_##T, T, T) SCALE_COLUMNS(scale_columns_##T##_f32, T, float)
FOR_NARROW(SCALE_COLUMNS_NARROW)

#define NO_ROW 0xffffffffu

// gather_rows: out[i] = x[rows[i]]; zeros for NO_ROW. Grid: rows.
// sum_rows: out[i] = Σ x[rows[j]] for j from offsets[i] to offsets[i + 1], in that order, rounded once. Grid: sums.
#define ROWS(T)                                                                                                \
  extern "C" __global__ void __launch_bounds__(EACH_THREADS)                                                           \
      gather_rows_##T(const T *x, const u32 *rows, int width, T *out) {                                           \
    u32 row = rows[blockIdx.x];                                                                                        \
    for (int at = threadIdx.x; at < width; at += EACH_THREADS)                                                         \
      out[(u64)blockIdx.x * width + at] = row == NO_ROW ? T{} : x[(u64)row * width + at];                             \
  }                                                                                                                    \
  KERNEL_REGISTER(gather_rows_##T)                                                                                \
  extern "C" __global__ void __launch_bounds__(EACH_THREADS)                                                           \
      sum_rows_##T(const T *x, const u32 *offsets, const u32 *rows, int width, T *out) {                          \
    u32 first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];                                                    \
    for (int at = threadIdx.x; at < width; at += EACH_THREADS) {                                                       \
      float sum = first < end ? load_one(x + (u64)rows[first] * width + at) : 0;                                       \
      for (u32 other = first + 1; other < end; other++)                                                                \
        sum = __fadd_rn(sum, load_one(x + (u64)rows[other] * width + at));                                             \
      store_one(out + (u64)blockIdx.x * width + at, sum);                                                              \
    }                                                                                                                  \
  }                                                                                                                    \
  KERNEL_REGISTER(sum_rows_##T)
FOR_ACTIVATIONS(ROWS)

// out[rows[i]] = x[i]. Grid: rows.
extern "C" __global__ void __launch_bounds__(EACH_THREADS)
    scatter_rows(const float *x, const u32 *rows, int width, float *out) {
  for (int at = threadIdx.x; at < width; at += EACH_THREADS)
    out[(u64)rows[blockIdx.x] * width + at] = x[(u64)blockIdx.x * width + at];
}
KERNEL_REGISTER(scatter_rows)
