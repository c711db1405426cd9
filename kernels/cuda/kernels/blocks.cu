// Matrices in blocks of 32 (GGUF), and unquantised ones, to f32, bf16 or f16. Signature and alignment as for NF4; a
// range of blocks starts on a multiple of 256 elements.
#include "narrow.cuh"

template <class Kind, class Out> struct BlockDecode {
  const u8 *bytes;
  __device__ __forceinline__ void operator()(u32 place, float (&values)[Out::EACH]) const {
    const u8 *block = bytes + place / BLOCK_ELEMENTS * Kind::BYTES;
#pragma unroll
    for (u32 i = 0; i < Out::EACH; i++)
      values[i] = Kind::value(block, place % BLOCK_ELEMENTS + i);
  }
};

template <class Kind, class Out>
__device__ __forceinline__ void block_dequantize(const u8 *data, u64 start, u64 count, typename Out::Type *out,
                                                 u8 *bytes) {
  u64 first = (u64)blockIdx.x * DEQUANTIZE_TILE;
  u32 here = (u32)(count - first < DEQUANTIZE_TILE ? count - first : DEQUANTIZE_TILE);
  stage_bytes(bytes, data + (start + first) / BLOCK_ELEMENTS * Kind::BYTES, here / BLOCK_ELEMENTS * Kind::BYTES);
  __syncthreads();
  write_tile<Out>(out + first, here, BlockDecode<Kind, Out>{bytes});
}

#define BLOCK_DEQUANTIZE(name, Kind, Out)                                                                              \
  extern "C" __global__ void __launch_bounds__(DEQUANTIZE_THREADS) name(                                               \
      const void *data, const u8 *codes, const float *scales, float offset, u64 start, u64 count, Out::Type *out) {    \
    __shared__ __align__(16) u8 bytes[DEQUANTIZE_TILE / BLOCK_ELEMENTS * Kind::BYTES];                                 \
    block_dequantize<Kind, Out>((const u8 *)data, start, count, out, bytes);                                           \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

BLOCK_DEQUANTIZE(dequantize_q4_0_f32, Q4_0, ToF32)
BLOCK_DEQUANTIZE(dequantize_q4_0_bf16, Q4_0, ToNarrow<bf16>)
BLOCK_DEQUANTIZE(dequantize_q4_0_f16, Q4_0, ToNarrow<f16>)
BLOCK_DEQUANTIZE(dequantize_q4_1_f32, Q4_1, ToF32)
BLOCK_DEQUANTIZE(dequantize_q4_1_bf16, Q4_1, ToNarrow<bf16>)
BLOCK_DEQUANTIZE(dequantize_q4_1_f16, Q4_1, ToNarrow<f16>)
BLOCK_DEQUANTIZE(dequantize_q8_0_f32, Q8_0, ToF32)
BLOCK_DEQUANTIZE(dequantize_q8_0_bf16, Q8_0, ToNarrow<bf16>)
BLOCK_DEQUANTIZE(dequantize_q8_0_f16, Q8_0, ToNarrow<f16>)

template <class Matrix, class Out> struct PlainDecode {
  Matrix matrix;
  u64 from;
  u32 count;
  __device__ __forceinline__ void operator()(u32 place, float (&values)[Out::EACH]) const {
    if (place + Out::EACH <= count && matrix.wide()) {
#pragma unroll
      for (u32 i = 0; i < Out::EACH; i += 4) {
        float4 four = matrix.four(from + place + i);
        values[i] = four.x;
        values[i + 1] = four.y;
        values[i + 2] = four.z;
        values[i + 3] = four.w;
      }
    } else {
      for (u32 i = 0; i < Out::EACH; i++)
        values[i] = place + i < count ? matrix.at(from + place + i) : 0.0f;
    }
  }
};

#define PLAIN_DEQUANTIZE(name, Matrix, Out)                                                                            \
  extern "C" __global__ void __launch_bounds__(DEQUANTIZE_THREADS) name(                                               \
      const void *data, const u8 *codes, const float *scales, float offset, u64 start, u64 count, Out::Type *out) {    \
    u64 first = (u64)blockIdx.x * DEQUANTIZE_TILE;                                                                     \
    u32 here = (u32)(count - first < DEQUANTIZE_TILE ? count - first : DEQUANTIZE_TILE);                               \
    write_tile<Out>(out + first, here,                                                                                 \
                    PlainDecode<Matrix, Out>{Matrix::of(data, codes, scales, offset), start + first, here});           \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

PLAIN_DEQUANTIZE(dequantize_f32_f32, F32Matrix, ToF32)
PLAIN_DEQUANTIZE(dequantize_f32_bf16, F32Matrix, ToNarrow<bf16>)
PLAIN_DEQUANTIZE(dequantize_f32_f16, F32Matrix, ToNarrow<f16>)
PLAIN_DEQUANTIZE(dequantize_f16_f32, F16Matrix, ToF32)
PLAIN_DEQUANTIZE(dequantize_f16_bf16, F16Matrix, ToNarrow<bf16>)
PLAIN_DEQUANTIZE(dequantize_bf16_f32, Bf16Matrix, ToF32)
PLAIN_DEQUANTIZE(dequantize_bf16_bf16, Bf16Matrix, ToNarrow<bf16>)
PLAIN_DEQUANTIZE(dequantize_bf16_f16, Bf16Matrix, ToNarrow<f16>)
