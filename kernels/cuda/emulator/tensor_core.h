// The tensor cores and asynchronous copies of the emulated device: what kernels/tensor_core.cuh has as PTX elsewhere.
#pragma once
#include <cstdint>
#include <cstring>

namespace cuemu {
// d[16,8] += a[16,16] · b[16,8] by the fragments of PTX's mma.m16n8k16 (row, col); products exact, one rounding at the
// end, where the hardware rounds more often.
void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
// The same with eight steps of halves: mma.m16n8k8.
void mma_m16n8k8_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b);
// ldmatrix.x4: lane l names row l % 8 of matrix l / 8; a misaligned row ends the program, as it ends a kernel.
void load_matrices(uint32_t (&to)[4], const void *row, bool transposed);
// cp.async of sixteen bytes: done at once or when it is waited for, as the schedule says; a program that is right must
// not see the difference.
void copy_sixteen(void *shared, const void *from, bool valid);
void copies_commit();
void copies_wait(unsigned pending);
inline uint16_t half_bits(float value) {
  _Float16 half = (_Float16)value;
  uint16_t bits;
  memcpy(&bits, &half, 2);
  return bits;
}
} // namespace cuemu

static inline void load_matrices(uint32_t (&to)[4], const void *row) { cuemu::load_matrices(to, row, false); }
static inline void load_matrices_transposed(uint32_t (&to)[4], const void *row) { cuemu::load_matrices(to, row, true); }
static inline void copy_sixteen(void *shared, const void *from, bool valid) {
  cuemu::copy_sixteen(shared, from, valid);
}
static inline void copies_commit() { cuemu::copies_commit(); }
template <int PENDING> static inline void copies_wait() { cuemu::copies_wait(PENDING); }
