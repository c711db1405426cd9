// Sums over the threads of a warp or a block, in an order that nothing but the number of threads decides.
#pragma once

// The sum over all lanes, in all lanes.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

// The sum over a block of WARPS warps, in all threads. `shared` has WARPS floats that nobody uses before the next
// barrier.
template <int WARPS> __device__ __forceinline__ float block_sum(float value, float *shared) {
  value = warp_sum(value);
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
  return sum;
}
