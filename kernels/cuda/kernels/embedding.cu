// Rows of a matrix in any storage type by token id, as f32. A block writes one row; an id outside the table gives NaN.
#include "operands.cuh"

template <class Matrix>
__device__ __forceinline__ void gather(const Matrix &table, u32 rows, const u32 *ids, int width, float *out) {
  u32 id = ids[blockIdx.x];
  u64 from = (u64)id * width;
  float *to = out + (u64)blockIdx.x * width;
  bool quads = width % 4 == 0 && (u64)out % 16 == 0 && table.wide();
  if (id >= rows) {
    for (int i = threadIdx.x; i < width; i += blockDim.x)
      to[i] = value_of_bits(0x7fc00000u);
  } else if (quads) {
    for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4)
      *(float4 *)(to + i) = table.four(from + i);
  } else {
    for (int i = threadIdx.x; i < width; i += blockDim.x)
      to[i] = table.at(from + i);
  }
}

#define EMBEDDING(kind, Matrix)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      embedding_##kind(const void *data, const u8 *codes, const float *scales, float offset, u32 rows, const u32 *ids, \
                       int width, float *out) {                                                                        \
    gather(Matrix::of(data, codes, scales, offset), rows, ids, width, out);                                            \
  }                                                                                                                    \
  KERNEL_REGISTER(embedding_##kind)
FOR_EACH_MATRIX(EMBEDDING)
