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

__device__ __forceinline__ float infinite() { return value_of_bits(0x7f800000u); }
__device__ __forceinline__ float quiet_nan() { return value_of_bits(0x7fc00000u); }
