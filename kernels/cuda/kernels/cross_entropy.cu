// The loss of rows of logits and, written over them, its gradient. The logits of a row are read once for the greatest
// of them and the sum of exponentials (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), once
// more for the gradient. Every thread sums the same places in the same order and the threads' sums meet in a fixed
// tree.
#include "operands.cuh"

#define SOFTMAX_THREADS 512

// The greatest of some logits and the sum of e^(logit - greatest).
struct Partial {
  float top;
  double sum;
};

__device__ __forceinline__ float exponential(float x, float top) {
  // Equal ones may be infinite: then nothing was seen yet.
  return x == top ? 1.0f : expf(x - top);
}

__device__ __forceinline__ Partial joined(const Partial &a, const Partial &b) {
  // A NaN is in the sum, so a comparison that it falls out of does no harm.
  float top = b.top > a.top ? b.top : a.top;
  return {top, a.sum * (double)exponential(a.top, top) + b.sum * (double)exponential(b.top, top)};
}

struct Running {
  float top, sum;
  __device__ __forceinline__ void add(float x) {
    if (x > top) {
      sum = fmaf(sum, expf(top - x), 1.0f);
      top = x;
    } else {
      sum += exponential(x, top);
    }
  }
};

// One block a row. `losses[row] = ln Σ e^logit - logit[target]`; with `gradient`, the logits become
// `scales[0] · (softmax - onehot)`. A target outside the vocabulary makes the loss and the gradient NaN.
extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS)
    softmax_loss(float *logits, const u32 *targets, int vocabulary, const float *scales, int gradient, float *losses) {
  __shared__ float tops[SOFTMAX_THREADS];
  __shared__ double sums[SOFTMAX_THREADS];
  float *row = logits + (u64)blockIdx.x * vocabulary;
  const u32 target = targets[blockIdx.x];
  const bool inside = target < (u32)vocabulary;
  const bool quads = vocabulary % 4 == 0 && (u64)logits % 16 == 0;
  const float lowest = float_of_bits(0xff800000u);
  Running running = {lowest, 0.0f};
  if (quads) {
    for (int i = threadIdx.x * 4; i < vocabulary; i += SOFTMAX_THREADS * 4) {
      float4 four = *(const float4 *)(row + i);
      running.add(four.x);
      running.add(four.y);
      running.add(four.z);
      running.add(four.w);
    }
  } else {
    for (int i = threadIdx.x; i < vocabulary; i += SOFTMAX_THREADS)
      running.add(row[i]);
  }
  tops[threadIdx.x] = running.top;
  sums[threadIdx.x] = running.sum;
  __syncthreads();
  for (int half = SOFTMAX_THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      Partial all =
          joined({tops[threadIdx.x], sums[threadIdx.x]}, {tops[threadIdx.x + half], sums[threadIdx.x + half]});
      tops[threadIdx.x] = all.top;
      sums[threadIdx.x] = all.sum;
    }
    __syncthreads();
  }
  const float top = tops[0];
  const double sum = sums[0];
  const float nan = float_of_bits(0x7fc00000u);
  if (threadIdx.x == 0)
    losses[blockIdx.x] = inside ? (float)(log(sum) + (double)top - (double)row[target]) : nan;
  if (!gradient)
    return;
  // The target's logit is read above before it is overwritten below.
  __syncthreads();
  const float scale = scales[0];
  const float factor = inside ? (float)((double)scale / sum) : nan;
  if (quads) {
    for (int i = threadIdx.x * 4; i < vocabulary; i += SOFTMAX_THREADS * 4) {
      float4 four = *(const float4 *)(row + i);
      float out[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        out[j] = __fmul_rn(expf(out[j] - top), factor);
        if ((u32)(i + j) == target)
          out[j] = __fadd_rn(out[j], -scale);
      }
      *(float4 *)(row + i) = make_float4(out[0], out[1], out[2], out[3]);
    }
  } else {
    for (int i = threadIdx.x; i < vocabulary; i += SOFTMAX_THREADS) {
      float value = __fmul_rn(expf(row[i] - top), factor);
      row[i] = (u32)i == target ? __fadd_rn(value, -scale) : value;
    }
  }
}
KERNEL_REGISTER(softmax_loss)
