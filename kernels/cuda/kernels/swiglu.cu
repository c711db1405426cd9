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

template <class F, class T>
__device__ __forceinline__ void gate_forward(const T *gate, const T *up, u64 count, int quads, T *out) {
  u64 index = (u64)blockIdx.x * GATED_THREADS + threadIdx.x;
  if (quads) {
    if (index * 4 >= count) return;
    float4 g = load_four(gate + index * 4), u = load_four(up + index * 4);
    store_four(out + index * 4,
               make_float4(F::value(g.x) * u.x, F::value(g.y) * u.y, F::value(g.z) * u.z, F::value(g.w) * u.w));
  } else if (index < count) {
    store_one(out + index, F::value(load_one(gate + index)) * load_one(up + index));
  }
}

// Of one element: the gradients of gate and up.
template <class F> __device__ __forceinline__ void slopes(float gate, float up, float dout, float &dgate, float &dup) {
  float value, slope;
  F::both(gate, value, slope);
  dup = dout * value;
  dgate = dout * up * slope;
}

template <class F, class T>
__device__ __forceinline__ void gate_backward(const T *gate, const T *up, const T *dout, u64 count, int quads, T *dgate,
                                              T *dup) {
  u64 index = (u64)blockIdx.x * GATED_THREADS + threadIdx.x;
  if (quads) {
    if (index * 4 >= count) return;
    float4 g = load_four(gate + index * 4), u = load_four(up + index * 4), d = load_four(dout + index * 4), dg, du;
    slopes<F>(g.x, u.x, d.x, dg.x, du.x);
    slopes<F>(g.y, u.y, d.y, dg.y, du.y);
    slopes<F>(g.z, u.z, d.z, dg.z, du.z);
    slopes<F>(g.w, u.w, d.w, dg.w, du.w);
    store_four(dgate + index * 4, dg);
    store_four(dup + index * 4, du);
  } else if (index < count) {
    float dg, du;
    slopes<F>(load_one(gate + index), load_one(up + index), load_one(dout + index), dg, du);
    store_one(dgate + index, dg);
    store_one(dup + index, du);
  }
}

// Grid: elements / 256, or / 1024 with `quads` (a multiple of four elements, where four can be loaded at once).
#define GATED(name, F, T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(GATED_THREADS)                                                          \
      name(const T *gate, const T *up, u64 count, int quads, T *out) {                                                 \
    gate_forward<F, T>(gate, up, count, quads, out);                                                                   \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define GATED_BACKWARD(name, F, T)                                                                                     \
  extern "C" __global__ void __launch_bounds__(GATED_THREADS)                                                          \
      name(const T *gate, const T *up, const T *dout, u64 count, int quads, T *dgate, T *dup) {                        \
    gate_backward<F, T>(gate, up, dout, count, quads, dgate, dup);                                                     \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define SWIGLU(T) GATED(swiglu_##T, Silu, T) GATED_BACKWARD(swiglu_backward_##T, Silu, T)
FOR_ACTIVATIONS(SWIGLU)
GATED(geglu_f32, Gelu, float)
GATED_BACKWARD(geglu_backward_f32, Gelu, float)
