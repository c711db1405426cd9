// An emulated libcublas with what src/cublas.rs calls: products of bf16 or f16 matrices with results of that type or in f32,
// on device addresses that are host addresses here. Column-major, as the real one.
#include <cstdint>
#include <cstring>
#include <dlfcn.h>

namespace {

struct Handle {
  void *stream = nullptr, *workspace = nullptr;
  size_t bytes = 0;
};

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, INTERNAL_ERROR = 14, NOT_SUPPORTED = 15 };
enum { REAL_32 = 0, HALF_16 = 2, BRAIN_16 = 14, COMPUTE_32 = 68 };

unsigned long products;

float widen(uint16_t bits, bool half) {
  if (half) {
    _Float16 value;
    memcpy(&value, &bits, 2);
    return (float)value;
  }
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

uint16_t rounded(float value, bool half) {
  if (half) {
    _Float16 narrow = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &narrow, 2);
    return bits;
  }
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Product {
  bool transposed_a, transposed_b;
  int m, n, k, lda, ldb, ldc;
  float alpha, beta;
  const uint16_t *a, *b;
  void *c;
  bool half, narrow;
  void run() const {
    for (int column = 0; column < n; column++)
      for (int row = 0; row < m; row++) {
        double sum = 0;
        for (int step = 0; step < k; step++) {
          uint16_t x = transposed_a ? a[(size_t)row * lda + step] : a[(size_t)step * lda + row];
          uint16_t y = transposed_b ? b[(size_t)step * ldb + column] : b[(size_t)column * ldb + step];
          sum += (double)widen(x, half) * widen(y, half);
        }
        size_t at = (size_t)column * ldc + row;
        float old = beta == 0 ? 0 : narrow ? widen(((uint16_t *)c)[at], half) : ((float *)c)[at];
        float value = (float)(alpha * sum) + beta * old;
        if (narrow)
          ((uint16_t *)c)[at] = rounded(value, half);
        else
          ((float *)c)[at] = value;
      }
  }
};

void run(void *product) { ((const Product *)product)->run(); }

// Asks the emulated driver, under whatever name it was loaded.
int queue(void *stream, Product *product) {
  typedef int Launch(void *, void (*)(void *), void *);
  void *driver = dlopen("libcuda.so", RTLD_LAZY | RTLD_NOLOAD);
  auto *launch = driver ? (Launch *)dlsym(driver, "cuLaunchHostFunc") : nullptr;
  return launch ? launch(stream, run, product) : 1;
}

} // namespace

extern "C" {

int cublasCreate_v2(Handle **handle) {
  *handle = new Handle;
  return SUCCESS;
}

int cublasDestroy_v2(Handle *handle) {
  if (!handle) return NOT_INITIALIZED;
  delete handle;
  return SUCCESS;
}

int cublasGetProperty(int property, int *value) {
  const int version[] = {12, 9, 4};
  if (property < 0 || property > 2) return INVALID_VALUE;
  *value = version[property];
  return SUCCESS;
}

// Of the emulation only: products since the library was loaded.
unsigned long emulator_cublas_products() { return products; }

int cublasSetStream_v2(Handle *handle, void *stream) {
  if (!handle) return NOT_INITIALIZED;
  handle->stream = stream;
  return SUCCESS;
}

int cublasSetWorkspace_v2(Handle *handle, void *workspace, size_t bytes) {
  if (!handle) return NOT_INITIALIZED;
  // The real one refuses a workspace that does not start on 256 bytes.
  if ((uintptr_t)workspace % 256) return INVALID_VALUE;
  handle->workspace = workspace;
  handle->bytes = bytes;
  return SUCCESS;
}

int cublasGemmEx(Handle *handle, int transposed_a, int transposed_b, int m, int n, int k, const float *alpha,
                 const uint16_t *a, int type_a, int lda, const uint16_t *b, int type_b, int ldb, const float *beta,
                 void *c, int type_c, int ldc, int compute, int) {
  if (!handle) return NOT_INITIALIZED;
  if ((type_a != BRAIN_16 && type_a != HALF_16) || type_b != type_a || (type_c != REAL_32 && type_c != type_a) ||
      compute != COMPUTE_32)
    return NOT_SUPPORTED;
  if (m < 0 || n < 0 || k < 0 || lda < (transposed_a ? k : m) || ldb < (transposed_b ? n : k) || ldc < m)
    return INVALID_VALUE;
  products++;
  // When its stream comes to it; a graph may come to it again, so it stays.
  auto *product = new Product{transposed_a != 0, transposed_b != 0, m, n, k, lda, ldb, ldc, *alpha, *beta, a, b, c,
                              type_a == HALF_16, type_c == type_a};
  return queue(handle->stream, product) ? INTERNAL_ERROR : SUCCESS;
}

} // extern "C"
