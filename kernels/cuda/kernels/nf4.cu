// NF4 with double quantisation to f32, bf16 or f16 in one launch: the second-level scales, the offset and the codes are
// decoded together. A range of the flattened matrix that starts on a multiple of 64; packed codes and output start on
// sixteen bytes.
#include "narrow.cuh"

template <class Out> struct Nf4Decode {
  const u8 *bytes;
  const float *code;
  const float *scale;
  __device__ __forceinline__ void operator()(u32 place, float (&values)[Out::EACH]) const {
    float by = scale[place / NF4_BLOCK];
#pragma unroll
    for (u32 i = 0; i < Out::EACH; i += 2) {
      u32 byte = bytes[(place + i) / 2];
      values[i] = __fmul_rn(code[byte >> 4], by);
      values[i + 1] = __fmul_rn(code[byte & 15], by);
    }
  }
};

template <class Out>
__device__ __forceinline__ void nf4_dequantize(const Nf4Matrix &matrix, u64 start, u64 count, typename Out::Type *out,
                                               u8 *bytes, float *code, float *scale) {
  u64 first = (u64)blockIdx.x * DEQUANTIZE_TILE;
  u32 here = (u32)(count - first < DEQUANTIZE_TILE ? count - first : DEQUANTIZE_TILE);
  stage_bytes(bytes, matrix.packed + (start + first) / 2, (here + 1) / 2);
  if (threadIdx.x < 16)
    code[threadIdx.x] = NF4_CODE[threadIdx.x];
  if (threadIdx.x * NF4_BLOCK < here)
    scale[threadIdx.x] = matrix.scale((start + first) / NF4_BLOCK + threadIdx.x);
  __syncthreads();
  write_tile<Out>(out + first, here, Nf4Decode<Out>{bytes, code, scale});
}

#define NF4_DEQUANTIZE(name, Out)                                                                                      \
  extern "C" __global__ void __launch_bounds__(DEQUANTIZE_THREADS) name(                                               \
      const void *data, const u8 *codes, const float *scales, float offset, u64 start, u64 count, Out::Type *out) {    \
    __shared__ __align__(16) u8 bytes[DEQUANTIZE_TILE / 2];                                                            \
    __shared__ float code[16];                                                                                         \
    __shared__ float scale[DEQUANTIZE_TILE / NF4_BLOCK];                                                               \
    nf4_dequantize<Out>(Nf4Matrix::of(data, codes, scales, offset), start, count, out, bytes, code, scale);            \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

NF4_DEQUANTIZE(dequantize_nf4_f32, ToF32)
NF4_DEQUANTIZE(dequantize_nf4_bf16, ToNarrow<bf16>)
NF4_DEQUANTIZE(dequantize_nf4_f16, ToNarrow<f16>)
