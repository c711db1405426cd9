// Root-mean-square normalisation, a block of threads per row. A row of up to NORM_THREADS · NORM_HELD groups of elements
// stays in registers, so it is read once; what is longer is read again.
#include "values.cuh"
#include "reductions.cuh"

#define NORM_THREADS 256
#define NORM_HELD 8

// Four neighbouring elements of rows that start on four elements, or one.
struct Quad {
  static const int EACH = 4;
  float4 lanes;
  template <class T> static __device__ __forceinline__ Quad load(const T *from) { return {load_four(from)}; }
  template <class T> __device__ __forceinline__ void store(T *to) const { store_four(to, lanes); }
  template <class F> static __device__ __forceinline__ Quad map(const Quad &a, const Quad &b, const Quad &c, F f) {
    return {make_float4(f(a.lanes.x, b.lanes.x, c.lanes.x), f(a.lanes.y, b.lanes.y, c.lanes.y),
                        f(a.lanes.z, b.lanes.z, c.lanes.z), f(a.lanes.w, b.lanes.w, c.lanes.w))};
  }
  // sum + Σ a · b.
  static __device__ __forceinline__ float dot(const Quad &a, const Quad &b, float sum) {
    sum = fmaf(a.lanes.x, b.lanes.x, sum);
    sum = fmaf(a.lanes.y, b.lanes.y, sum);
    sum = fmaf(a.lanes.z, b.lanes.z, sum);
    return fmaf(a.lanes.w, b.lanes.w, sum);
  }
};

struct Single {
  static const int EACH = 1;
  float lane;
  template <class T> static __device__ __forceinline__ Single load(const T *from) { return {load_one(from)}; }
  template <class T> __device__ __forceinline__ void store(T *to) const { store_one(to, lane); }
  template <class F>
  static __device__ __forceinline__ Single map(const Single &a, const Single &b, const Single &c, F f) {
    return {f(a.lane, b.lane, c.lane)};
  }
  static __device__ __forceinline__ float dot(const Single &a, const Single &b, float sum) {
    return fmaf(a.lane, b.lane, sum);
  }
};

// Calls `each(index, at)` for the groups of a thread in ascending order: those that are held, with their index, then
// the others with index NORM_HELD.
template <class Group, class F> __device__ __forceinline__ void for_groups(int d, const F &each) {
#pragma unroll
  for (int index = 0; index < NORM_HELD; index++) {
    int at = (threadIdx.x + index * NORM_THREADS) * Group::EACH;
    if (at < d) each(index, at);
  }
  for (int at = (threadIdx.x + NORM_HELD * NORM_THREADS) * Group::EACH; at < d; at += NORM_THREADS * Group::EACH)
    each(NORM_HELD, at);
}

template <class Group, class In, class Out>
__device__ __forceinline__ void normalise(const In *x, const float *weight, float eps, int d, Out *out, float *inverses,
                                          float *shared) {
  x += (u64)blockIdx.x * d;
  out += (u64)blockIdx.x * d;
  Group held[NORM_HELD];
  float squares = 0;
  for_groups<Group>(d, [&](int index, int at) {
    Group group = Group::load(x + at);
    if (index < NORM_HELD) held[index] = group;
    squares = Group::dot(group, group, squares);
  });
  float inverse = 1 / sqrtf(block_sum<NORM_THREADS / 32>(squares, shared) / d + eps);
  for_groups<Group>(d, [&](int index, int at) {
    Group group = index < NORM_HELD ? held[index] : Group::load(x + at);
    Group scale = Group::load(weight + at);
    Group::map(group, scale, group, [&](float x, float w, float) { return w * (x * inverse); }).store(out + at);
  });
  if (threadIdx.x == 0) inverses[blockIdx.x] = inverse;
}

// dx = r · (dy · w - x̂ · mean(dy · w · x̂)) with x̂ = x · r, added to dx if `accumulate`. dx may be dy.
template <class Group, class T>
__device__ __forceinline__ void normalise_backward(const T *x, const float *weight, const float *inverses, const T *dy,
                                                   int accumulate, int d, T *dx, float *shared) {
  x += (u64)blockIdx.x * d;
  dy += (u64)blockIdx.x * d;
  dx += (u64)blockIdx.x * d;
  float inverse = inverses[blockIdx.x], dots = 0;
  Group normals[NORM_HELD], weighted[NORM_HELD];
  auto load = [&](int at, Group &normal, Group &gradient) {
    Group row = Group::load(x + at), scale = Group::load(weight + at);
    gradient = Group::load(dy + at);
    normal = Group::map(row, row, row, [&](float x, float, float) { return x * inverse; });
    gradient = Group::map(gradient, scale, scale, [&](float dy, float w, float) { return dy * w; });
  };
  for_groups<Group>(d, [&](int index, int at) {
    Group normal, gradient;
    load(at, normal, gradient);
    if (index < NORM_HELD) {
      normals[index] = normal;
      weighted[index] = gradient;
    }
    dots = Group::dot(normal, gradient, dots);
  });
  float mean = block_sum<NORM_THREADS / 32>(dots, shared) / d;
  for_groups<Group>(d, [&](int index, int at) {
    Group normal, gradient;
    if (index < NORM_HELD) {
      normal = normals[index];
      gradient = weighted[index];
    } else {
      load(at, normal, gradient);
    }
    Group old = normal;
    if (accumulate) old = Group::load(dx + at);
    Group::map(normal, gradient, old, [&](float normal, float weighted, float old) {
      float slope = inverse * fmaf(-normal, mean, weighted);
      return accumulate ? old + slope : slope;
    }).store(dx + at);
  });
}

// Grid: rows. Those of quads need d and all addresses to be multiples of four elements.
#define RMS_NORM(name, Group, In, Out)                                                                                 \
  extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                                           \
      name(const In *x, const float *weight, float eps, int d, Out *out, float *inverses) {                            \
    __shared__ float shared[NORM_THREADS / 32];                                                                        \
    normalise<Group, In, Out>(x, weight, eps, d, out, inverses, shared);                                               \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define RMS_NORM_BACKWARD(name, Group, T)                                                                              \
  extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                                           \
      name(const T *x, const float *weight, const float *inverses, const T *dy, int accumulate, int d, T *dx) {        \
    __shared__ float shared[NORM_THREADS / 32];                                                                        \
    normalise_backward<Group, T>(x, weight, inverses, dy, accumulate, d, dx, shared);                                  \
  }                                                                                                                    \
  KERNEL_REGISTER(name)

#define RMS_NORMS(T)                                                                                                   \
  RMS_NORM(rms_norm_##T##_##T, Quad, T, T)                                                                             \
  RMS_NORM(rms_norm_single_##T##_##T, Single, T, T)                                                                    \
  RMS_NORM_BACKWARD(rms_norm_backward_##T, Quad, T)                                                                    \
  RMS_NORM_BACKWARD(rms_norm_backward_single_##T, Single, T)
FOR_ACTIVATIONS(RMS_NORMS)

#define RMS_NORM_NARROW(T)                                                                                             \
  RMS_NORM(rms_norm_f32_##T, Quad, float, T)                                                                           \
  RMS_NORM(rms_norm_single_f32_##T, Single, float, T)
FOR_NARROW(RMS_NORM_NARROW)
