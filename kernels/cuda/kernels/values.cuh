// Values without a toolkit's headers.
#pragma once
#include "words.cuh"
#ifdef CUEMU
#include "../emulator/tensor_core.h"
#endif

__device__ __forceinline__ float value_of_bits(u32 bits) {
  union {
    u32 bits;
    float value;
  } both;
  both.bits = bits;
  return both.value;
}

__device__ __forceinline__ u32 bits_of_value(float value) {
  union {
    float value;
    u32 bits;
  } both;
  both.value = value;
  return both.bits;
}

__device__ __forceinline__ float infinite() { return value_of_bits(0x7f800000u); }
__device__ __forceinline__ float quiet_nan() { return value_of_bits(0x7fc00000u); }

// Activations are f32, or sixteen bits: bf16 from compute capability 8.0 on, f16 before. Loads widen; stores round to
// nearest, ties to even, and beyond the range to an infinity; a NaN stays one.
typedef float f32;

struct bf16 {
  u16 bits;
  static __device__ __forceinline__ float widen(u16 bits) { return value_of_bits((u32)bits << 16); }
  static __device__ __forceinline__ u16 narrow(float value) {
    u32 bits = bits_of_value(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
      return (u16)(bits >> 16 | 0x40);
    return (u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
  }
  static __device__ __forceinline__ u32 pack(float low, float high) {
#if !defined(CUEMU) && __CUDA_ARCH__ >= 800
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return (u32)narrow(low) | (u32)narrow(high) << 16;
#endif
  }
};

struct f16 {
  u16 bits;
  // Exact for every finite half, subnormal ones too; infinities and NaNs keep their kind.
  static __device__ __forceinline__ float widen(u16 bits) {
#ifdef CUEMU
    float size = value_of_bits((u32)(bits & 0x7fff) << 13) * 5.1922968585348276e33f;
    u32 pattern = (bits & 0x7c00) == 0x7c00 ? 0x7f800000u | (u32)(bits & 0x3ff) << 13 : bits_of_value(size);
    return value_of_bits(pattern | (u32)(bits & 0x8000) << 16);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
  }
  static __device__ __forceinline__ u16 narrow(float value) {
#ifdef CUEMU
    return cuemu::half_bits(value);
#else
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#endif
  }
  static __device__ __forceinline__ u32 pack(float low, float high) {
    return (u32)narrow(low) | (u32)narrow(high) << 16;
  }
};

// Kernels of activations in sixteen bits are made for the type that a generation has; the emulated device has both.
#if defined(CUEMU)
#define FOR_BF16(...) __VA_ARGS__
#define FOR_F16(...) __VA_ARGS__
#elif __CUDA_ARCH__ >= 800
#define FOR_BF16(...) __VA_ARGS__
#define FOR_F16(...)
#else
#define FOR_BF16(...)
#define FOR_F16(...) __VA_ARGS__
#endif
#define FOR_NARROW(DO) FOR_BF16(DO(bf16)) FOR_F16(DO(f16))
#define FOR_ACTIVATIONS(DO) DO(f32) FOR_NARROW(DO)

__device__ __forceinline__ float load_one(const float *from) { return *from; }
template <class T> __device__ __forceinline__ float load_one(const T *from) { return T::widen(from->bits); }
__device__ __forceinline__ void store_one(float *to, float value) { *to = value; }
template <class T> __device__ __forceinline__ void store_one(T *to, float value) { to->bits = T::narrow(value); }

// Two elements from a multiple of two on.
__device__ __forceinline__ float2 load_two(const float *from) { return *(const float2 *)from; }
template <class T> __device__ __forceinline__ float2 load_two(const T *from) {
  u32 both = *(const u32 *)from;
  return make_float2(T::widen((u16)both), T::widen((u16)(both >> 16)));
}
__device__ __forceinline__ void store_two(float *to, float x, float y) { *(float2 *)to = make_float2(x, y); }
template <class T> __device__ __forceinline__ void store_two(T *to, float x, float y) { *(u32 *)to = T::pack(x, y); }

// Four elements from a multiple of four on.
__device__ __forceinline__ float4 load_four(const float *from) { return *(const float4 *)from; }
template <class T> __device__ __forceinline__ float4 load_four(const T *from) {
  uint2 words = *(const uint2 *)from;
  return make_float4(T::widen((u16)words.x), T::widen((u16)(words.x >> 16)), T::widen((u16)words.y),
                     T::widen((u16)(words.y >> 16)));
}
__device__ __forceinline__ void store_four(float *to, float4 four) { *(float4 *)to = four; }
template <class T> __device__ __forceinline__ void store_four(T *to, float4 four) {
  *(uint2 *)to = make_uint2(T::pack(four.x, four.y), T::pack(four.z, four.w));
}
