// Tensor-core products and asynchronous copies, as functions of a warp or a thread. Sources: PTX ISA, "Warp level
// matrix multiply-accumulate instructions" and "Data movement and conversion instructions: asynchronous copy".
#pragma once
#include "operands.cuh"

#ifndef CUEMU

__device__ __forceinline__ u32 shared_address(const void *shared) {
  u32 address;
  asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(shared));
  return address;
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(u32 (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(u32 (&to)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// Sixteen bytes to shared memory, zeros if not `valid`: `from` is not read then.
__device__ __forceinline__ void copy_sixteen(void *shared, const void *from, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *(uint4 *)shared = valid ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void copies_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING of this thread's newest groups are under way.
template <int PENDING> __device__ __forceinline__ void copies_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

#endif

// bfloat16 factors, from sm_80 on.
struct Brain {
  // What a left operand is stored in, and an output in sixteen bits.
  typedef bf16 Left;
  typedef bf16 Narrow;
  // Whether rows of the left operand are divided by a power of two.
  static const bool SCALED = false;
  // d[16,8] += a[16,16] · b[16,8], in the fragments of mma.m16n8k16.
  static __device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef CUEMU
    cuemu::mma_m16n8k16_bf16(d, a, b0, b1);
#elif __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
  }
};

// Half-precision factors; two steps of 8, which sm_75 has too.
struct Half {
  typedef f16 Left;
  typedef f16 Narrow;
  static const bool SCALED = false;
  static __device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    eight(d, a[0], a[1], b0);
    eight(d, a[2], a[3], b1);
  }
  static __device__ __forceinline__ void eight(float (&d)[4], u32 a0, u32 a1, u32 b) {
#ifdef CUEMU
    cuemu::mma_m16n8k8_f16(d, a0, a1, b);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(b));
#endif
  }
};

// The same with a left operand in f32, of whatever size.
struct ScaledHalf : Half {
  typedef float Left;
  static const bool SCALED = true;
};

// The products of what activations are stored in; those of f32 are narrowed to bf16.
template <class T> struct ProductsOf {
  typedef Brain Element;
};
template <> struct ProductsOf<f16> {
  typedef Half Element;
};
