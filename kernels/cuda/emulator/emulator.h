// CUDA on the CPU: every thread of a block is a fiber of one operating-system thread, blocks run one after another.
//
// Ends the program with a message on: a barrier that part of a block does not reach or reaches elsewhere, a warp operation
// whose mask names lanes that are absent, gone or elsewhere, a shuffle from a lane outside its mask, a stack that
// overflows, a write beside a kernel's shared memory. Shared memory is NaN before each block. The order of threads is
// EMULATOR_ORDER: fwd, rev, a number that seeds an order per phase, or warps and warps-rev, which run a warp as far as it
// gets before the next one, so that a missing barrier shows. Races show as results that differ, and under
// -fsanitize=thread as reports. Not shown: races between blocks, weak memory, the hardware's own order of sums in a
// matrix product, time.
//
// __shared__ inside a template kernel is not in the section that is made NaN; kernels are extern "C" and hand it on.
#pragma once
#define CUEMU 1
#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("cuemu_shared")))

using std::max;
using std::min;

struct __attribute__((aligned(8))) float2 {
  float x, y;
};
struct __attribute__((aligned(16))) float4 {
  float x, y, z, w;
};
struct __attribute__((aligned(8))) uint2 {
  unsigned x, y;
};
struct __attribute__((aligned(16))) uint4 {
  unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define threadIdx (cuemu::cur->thread)
#define blockIdx (cuemu::block_index)
#define blockDim (cuemu::block_size)
#define gridDim (cuemu::grid_size)
#define __syncthreads() cuemu::yield_block(__FILE__, __LINE__)
#define __syncwarp(...) ((void)cuemu::ballot(__FILE__, __LINE__, ~0u, 0))
#define __shfl_sync(m, v, s) cuemu::shuffle(__FILE__, __LINE__, m, v, (unsigned)(s) & 31)
#define __shfl_xor_sync(m, v, x) cuemu::shuffle(__FILE__, __LINE__, m, v, cuemu::lane() ^ (unsigned)(x))
#define __shfl_up_sync(m, v, d) cuemu::shuffle(__FILE__, __LINE__, m, v, cuemu::lane_up(d))
#define __shfl_down_sync(m, v, d) cuemu::shuffle(__FILE__, __LINE__, m, v, cuemu::lane_down(d))
#define __ballot_sync(m, p) cuemu::ballot(__FILE__, __LINE__, m, p)
#define __any_sync(m, p) (cuemu::ballot(__FILE__, __LINE__, m, p) != 0)
#define __all_sync(m, p) (cuemu::ballot(__FILE__, __LINE__, m, !(p)) == 0)

// Built with -ffp-contract=off, so each of these is rounded on its own.
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
static inline int __float_as_int(float value) {
  int bits;
  memcpy(&bits, &value, 4);
  return bits;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned __int128)a * b >> 64;
}
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
static inline int atomicAdd(int *at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
static inline unsigned atomicAdd(unsigned *at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
static inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

#define DYN_SHARED(Type, name) Type *name = reinterpret_cast<Type *>(cuemu::dynamic_shared())
#define KERNEL_REGISTER(name)                                                                                          \
  namespace {                                                                                                          \
  struct Register_##name {                                                                                             \
    Register_##name() {                                                                                                \
      cuemu::kernels()[#name] = {+[](void **parameters) { cuemu::call(name, parameters); }, cuemu::sizes(name)};       \
    }                                                                                                                  \
  } register_##name;                                                                                                   \
  }
