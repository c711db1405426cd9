// What a dequantised matrix is written as: sixteen bytes a store.
#pragma once
#include "operands.cuh"

struct ToF32 {
  typedef float Type;
  static const int EACH = 4;
  static __device__ __forceinline__ float narrow(float value) { return value; }
  static __device__ __forceinline__ void store(float *out, const float (&values)[EACH]) {
    *(float4 *)out = make_float4(values[0], values[1], values[2], values[3]);
  }
};

template <class T> struct ToNarrow {
  typedef u16 Type;
  static const int EACH = 8;
  static __device__ __forceinline__ u16 narrow(float value) { return T::narrow(value); }
  static __device__ __forceinline__ void store(u16 *out, const float (&values)[EACH]) {
    *(uint4 *)out = make_uint4(T::pack(values[0], values[1]), T::pack(values[2], values[3]), T::pack(values[4], values[5]),
                               T::pack(values[6], values[7]));
  }
};

// Elements of a block of DEQUANTIZE_THREADS threads.
#define DEQUANTIZE_THREADS 256
#define DEQUANTIZE_TILE 8192

// Writes `count` elements by groups of Out::EACH, whose values `decode` gives from their place in the tile.
template <class Out, class Decode>
__device__ __forceinline__ void write_tile(typename Out::Type *out, u32 count, const Decode &decode) {
  for (u32 place = threadIdx.x * Out::EACH; place < count; place += DEQUANTIZE_THREADS * Out::EACH) {
    float values[Out::EACH];
    decode(place, values);
    if (place + Out::EACH <= count) {
      Out::store(out + place, values);
    } else {
      for (u32 i = 0; i < Out::EACH; i++)
        if (place + i < count)
          out[place + i] = Out::narrow(values[i]);
    }
  }
}

// Copies `count` bytes to shared memory, sixteen a load; both sides start on sixteen.
__device__ __forceinline__ void stage_bytes(u8 *shared, const u8 *from, u32 count) {
  for (u32 at = threadIdx.x * 16; at < count; at += DEQUANTIZE_THREADS * 16) {
    if (at + 16 <= count) {
      *(uint4 *)(shared + at) = *(const uint4 *)(from + at);
    } else {
      for (u32 i = at; i < count; i++)
        shared[i] = from[i];
    }
  }
}
