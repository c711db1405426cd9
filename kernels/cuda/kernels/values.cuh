// Values without a toolkit's headers.
#pragma once
#include "words.cuh"

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

// Activations are f32, or bf16 as bits: loads widen, stores round to nearest, ties to even; a NaN stays one.
__device__ __forceinline__ float float_of_bf16(u16 bits) { return value_of_bits((u32)bits << 16); }

__device__ __forceinline__ u16 bf16_bits(float value) {
  u32 bits = bits_of_value(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return (u16)(bits >> 16 | 0x40);
  return (u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
#if !defined(CUEMU) && __CUDA_ARCH__ >= 800
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
#else
  return (u32)bf16_bits(low) | (u32)bf16_bits(high) << 16;
#endif
}

__device__ __forceinline__ float load_one(const float *from) { return *from; }
__device__ __forceinline__ float load_one(const u16 *from) { return float_of_bf16(*from); }
__device__ __forceinline__ void store_one(float *to, float value) { *to = value; }
__device__ __forceinline__ void store_one(u16 *to, float value) { *to = bf16_bits(value); }

// Two elements from a multiple of two on.
__device__ __forceinline__ float2 load_two(const float *from) { return *(const float2 *)from; }
__device__ __forceinline__ float2 load_two(const u16 *from) {
  u32 both = *(const u32 *)from;
  return make_float2(value_of_bits(both << 16), value_of_bits(both & 0xffff0000u));
}
__device__ __forceinline__ void store_two(float *to, float x, float y) { *(float2 *)to = make_float2(x, y); }
__device__ __forceinline__ void store_two(u16 *to, float x, float y) { *(u32 *)to = pack_bf16(x, y); }

// Four elements from a multiple of four on.
__device__ __forceinline__ float4 load_four(const float *from) { return *(const float4 *)from; }
__device__ __forceinline__ float4 load_four(const u16 *from) {
  uint2 words = *(const uint2 *)from;
  return make_float4(value_of_bits(words.x << 16), value_of_bits(words.x & 0xffff0000u), value_of_bits(words.y << 16),
                     value_of_bits(words.y & 0xffff0000u));
}
__device__ __forceinline__ void store_four(float *to, float4 four) { *(float4 *)to = four; }
__device__ __forceinline__ void store_four(u16 *to, float4 four) {
  *(uint2 *)to = make_uint2(pack_bf16(four.x, four.y), pack_bf16(four.z, four.w));
}
