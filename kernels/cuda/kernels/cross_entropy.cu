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
template <class T>
__device__ __forceinline__ void softmax_rows(float *logits, const u32 *targets, int vocabulary, const float *scales,
                                             int gradient, float *losses, float *tops, double *sums) {
  float *row = logits + (u64)blockIdx.x * vocabulary;
  const u32 target = targets[blockIdx.x];
  const bool inside = target < (u32)vocabulary;
  const bool quads = vocabulary % 4 == 0 && (u64)logits % 16 == 0;
  const float lowest = value_of_bits(0xff800000u);
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
  const float nan = value_of_bits(0x7fc00000u);
  if (threadIdx.x == 0)
    losses[blockIdx.x] = inside ? (float)(log(sum) + (double)top - (double)row[target]) : nan;
  if (!gradient)
    return;
  // The target's logit is read above before it is overwritten below.
  __syncthreads();
  const float scale = scales[0];
  const float factor = inside ? (float)((double)scale / sum) : nan;
  auto slope = [&](float logit, int at) {
    float value = __fmul_rn(expf(logit - top), factor);
    return (u32)at == target ? __fadd_rn(value, -scale) : value;
  };
  if (sizeof(T) == 2) {
    // What a round of the block writes lies where this or an earlier round has read: reads come before writes.
    T *narrow = (T *)row;
    const int each = quads ? 4 : 1;
    for (int base = 0; base < vocabulary; base += SOFTMAX_THREADS * each) {
      int at = base + threadIdx.x * each;
      float4 four = make_float4(0, 0, 0, 0);
      if (at < vocabulary) {
        if (quads)
          four = load_four(row + at);
        else
          four.x = row[at];
      }
      __syncthreads();
      if (at >= vocabulary)
        continue;
      if (quads)
        store_four(narrow + at,
                   make_float4(slope(four.x, at), slope(four.y, at + 1), slope(four.z, at + 2), slope(four.w, at + 3)));
      else
        store_one(narrow + at, slope(four.x, at));
    }
  } else if (quads) {
    for (int i = threadIdx.x * 4; i < vocabulary; i += SOFTMAX_THREADS * 4) {
      float4 four = load_four(row + i);
      store_four(row + i, make_float4(slope(four.x, i), slope(four.y, i + 1), slope(four.z, i + 2), slope(four.w, i + 3)));
    }
  } else {
    for (int i = threadIdx.x; i < vocabulary; i += SOFTMAX_THREADS)
      row[i] = slope(row[i], i);
  }
}

// All but `softmax_loss_f32` leave the gradient of a row in sixteen bits at the start of its row, whose place does not change.
#define SOFTMAX_LOSS(T)                                                                                     \
  extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS)                                                        \
      softmax_loss_##T(float *logits, const u32 *targets, int vocabulary, const float *scales, int gradient, float *losses) {      \
    __shared__ float tops[SOFTMAX_THREADS];                                                                            \
    __shared__ double sums[SOFTMAX_THREADS];                                                                           \
    softmax_rows<T>(logits, targets, vocabulary, scales, gradient, losses, tops, sums);                           \
  }                                                                                                                    \
  KERNEL_REGISTER(softmax_loss_##T)
FOR_ACTIVATIONS(SOFTMAX_LOSS)
