// Weight-decomposed adapters (Liu et al., "DoRA", 2024): norms of changed rows, and the gradient of the magnitudes. Sums
// are f64.
#include "operands.cuh"

// out[i] = Σ w[i, ·]². Grid: rows.
template <class Matrix>
__device__ __forceinline__ void squares(const Matrix &matrix, int cols, float *out, double *shared) {
  double sum = 0;
  for (int at = threadIdx.x; at < cols; at += 256) {
    double x = matrix.at((u64)blockIdx.x * cols + at);
    sum += x * x;
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half)
      shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0)
    out[blockIdx.x] = (float)shared[0];
}

#define ROW_SQUARES(kind, Matrix)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256) row_squares_##kind(                                                \
      const void *data, const u8 *codes, const float *scales, float offset, int cols, float *out) {                    \
    __shared__ double shared[256];                                                                                     \
    squares(Matrix::of(data, codes, scales, offset), cols, out, shared);                                               \
  }                                                                                                                    \
  KERNEL_REGISTER(row_squares_##kind)
FOR_EACH_MATRIX(ROW_SQUARES)

// The norm of each row of W + scale · B · A from Σ W², A · Wᵀ and A · Aᵀ; its inverse, and the magnitude over it (the norm
// where there is no magnitude). Grid: rows / 256.
extern "C" __global__ void __launch_bounds__(256)
    dora_gains(const float *squares, const float *cross, const float *gram, const float *b, float scale, int rows, int rank,
               const float *magnitude, float *gains, float *inverse) {
  int row = blockIdx.x * 256 + threadIdx.x;
  if (row >= rows)
    return;
  double once = 0, twice = 0;
  for (int i = 0; i < rank; i++) {
    double left = b[(u64)row * rank + i];
    once += left * cross[(u64)i * rows + row];
    for (int j = 0; j < rank; j++) twice += left * b[(u64)row * rank + j] * gram[i * rank + j];
  }
  double by = scale, norm = sqrt(fmax(squares[row] + 2 * by * once + by * by * twice, 0.0));
  double one = norm > 0 ? 1 / norm : 0;
  inverse[row] = (float)one;
  gains[row] = (float)(magnitude ? magnitude[row] * one : norm);
}
KERNEL_REGISTER(dora_gains)

// out[j] = factors[j] · Σ_t dy[t, j] · x[t, j] (+ out), over the rows in their order. Grid: columns / 256.
#define COLUMN_DOTS(T)                                                                                           \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      column_dots_##T(const T *dy, const T *x, const float *factors, int rows, int width, int accumulate, float *out) {           \
    int column = blockIdx.x * 256 + threadIdx.x;                                                                       \
    if (column >= width)                                                                                               \
      return;                                                                                                          \
    double sum = 0;                                                                                                    \
    for (int row = 0; row < rows; row++)                                                                               \
      sum += (double)load_one(dy + (u64)row * width + column) * load_one(x + (u64)row * width + column);               \
    float value = (float)(sum * factors[column]);                                                                      \
    out[column] = accumulate ? __fadd_rn(out[column], value) : value;                                                  \
  }                                                                                                                    \
  KERNEL_REGISTER(column_dots_##T)
FOR_ACTIVATIONS(COLUMN_DOTS)
