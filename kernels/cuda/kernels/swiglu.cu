// Gated activations: out = f(gate) · up. Every element is read before its place is written, so outputs may be inputs.
#include "values.cuh"

#define GATED_THREADS 256

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// f = x · σ(x).
struct Silu {
  static __device__ __forceinline__ float value(float x) { return x * sigmoid(x); }
  static __device__ __forceinline__ void both(float x, float &value, float &slope) {
    float s = sigmoid(x);
    value = x * s;
    slope = s * fmaf(x, 1 - s, 1.0f);
  }
};

// f = x / 2 · (1 + tanh(√(2/π) (x + 0.044715 x³))): the tanh form of GELU (Hendrycks and Gimpel, 2016).
struct Gelu {
  static __device__ __forceinline__ float value(float x) {
    float value, slope;
    both(x, value, slope);
    return value;
  }
  static __device__ __forceinline__ void both(float x, float &value, float &slope) {
    float square = x * x;
    float bent = tanhf(0.797884561f * x * fmaf(0.044715f, square, 1.0f));
    value = 0.5f * x * (1 + bent);
    float inner = 0.797884561f * fmaf(3 * 0.044715f, square, 1.0f);
    slope = 0.5f * (1 + bent) + 0.5f * x * (1 - bent * bent) * inner;
  }
};

template <class F>
__device__ __forceinline__ void gate_forward(const float *gate, const float *up, u64 count, int quads, float *out) {
  u64 index = (u64)blockIdx.x * GATED_THREADS + threadIdx.x;
  if (quads) {
    if (index * 4 >= count) return;
    float4 g = *(const float4 *)(gate + index * 4), u = *(const float4 *)(up + index * 4);
    *(float4 *)(out + index * 4) =
        make_float4(F::value(g.x) * u.x, F::value(g.y) * u.y, F::value(g.z) * u.z, F::value(g.w) * u.w);
  } else if (index < count) {
    out[index] = F::value(gate[index]) * up[index];
  }
}

template <class F>
__device__ __forceinline__ void gate_backward(const float *gate, const float *up, const float *dout, u64 count,
                                              float *dgate, float *dup) {
  u64 index = (u64)blockIdx.x * GATED_THREADS + threadIdx.x;
  if (index >= count) return;
  float value, slope, u = up[index], d = dout[index];
  F::both(gate[index], value, slope);
  dup[index] = d * value;
  dgate[index] = d * u * slope;
}

// Grid: elements / 256, or / 1024 with `quads` (a multiple of four elements on sixteen bytes).
#define GATED(name, F)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(GATED_THREADS)                                                          \
      name(const float *gate, const float *up, u64 count, int quads, float *out) {                                     \
    gate_forward<F>(gate, up, count, quads, out);                                                                      \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define GATED_BACKWARD(name, F)                                                                                        \
  extern "C" __global__ void __launch_bounds__(GATED_THREADS)                                                          \
      name(const float *gate, const float *up, const float *dout, u64 count, float *dgate, float *dup) {               \
    gate_backward<F>(gate, up, dout, count, dgate, dup);                                                               \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

GATED(swiglu, Silu)
GATED(geglu, Gelu)
GATED_BACKWARD(swiglu_backward, Silu)
GATED_BACKWARD(geglu_backward, Gelu)
