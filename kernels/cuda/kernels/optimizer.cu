// AdamW over flat buffers (Loshchilov and Hutter, 2019), with moments in f32 or in 8 bits (Dettmers et al., "8-bit
// optimizers via block-wise quantization", 2022), norms, clipping and sums. The bits of the updates are the CPU's.
#include "operands.cuh"

#define STATE_BLOCK 256

// What a step multiplies by, in the order of the engine.
enum Factor { DECAY, BETA1, REST1, BETA2, REST2, ROOT, INVERSE_ROOT, EPS, STEP_SIZE };

extern "C" __global__ void __launch_bounds__(256)
    adamw(const float *grads, u64 count, const float *factors, float *params, float *m, float *v) {
  u64 at = (u64)blockIdx.x * 256 + threadIdx.x;
  if (at >= count)
    return;
  const float decay = factors[DECAY], beta1 = factors[BETA1], rest1 = factors[REST1], beta2 = factors[BETA2];
  const float rest2 = factors[REST2], inverse_root = factors[INVERSE_ROOT], eps = factors[EPS];
  const float step_size = factors[STEP_SIZE];
  float gradient = grads[at];
  float first = fmaf(beta1, m[at], __fmul_rn(rest1, gradient));
  float second = fmaf(beta2, v[at], __fmul_rn(rest2, __fmul_rn(gradient, gradient)));
  m[at] = first;
  v[at] = second;
  float below = fmaf(sqrtf(second), inverse_root, eps);
  params[at] = fmaf(-step_size, first / below, __fmul_rn(params[at], decay));
}
KERNEL_REGISTER(adamw)

// `torch.linspace(0.1, 1, steps)` in f32: counted from the nearer end.
__device__ __forceinline__ float edge(int i, int steps) {
  float step = __fadd_rn(1.0f, -0.1f) / (float)(steps - 1);
  return i < steps / 2 ? fmaf(step, (float)i, 0.1f) : fmaf(-step, (float)(steps - 1 - i), 1.0f);
}

// The middle of step `place` of 2^`bits` over a decade.
__device__ __forceinline__ float middle(int place, int bits, int decade) {
  const float decades[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  int steps = (1 << bits) + 1;
  return __fmul_rn(__fadd_rn(edge(place, steps), edge(place + 1, steps)) / 2, decades[decade]);
}

// Entry `code` of the unsigned dynamic map: 0, then for each decade the middles of 2^(decade + 1) steps, then 1.
__device__ __forceinline__ float unsigned_dynamic(int code) {
  if (code == 0 || code == 255)
    return code == 0 ? 0.0f : 1.0f;
  int bits = 1;
  while ((code + 1) >> (bits + 1)) bits++;
  return middle(code + 1 - (1 << bits), bits, bits - 1);
}

// The code of the map's nearest entry, the lower of two equally near.
__device__ __forceinline__ int nearest(const float *map, float value) {
  int low = 0, high = 256;
  while (low < high) {
    int at = (low + high) / 2;
    if (map[at] < value)
      low = at + 1;
    else
      high = at;
  }
  int above = min(max(low, 1), 255);
  return fabsf(__fadd_rn(map[above], -value)) < fabsf(__fadd_rn(value, -map[above - 1])) ? above : above - 1;
}

// The greatest size in a block of 256, in all threads. `shared` has eight floats.
__device__ __forceinline__ float block_top(float size, float *shared) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) size = fmaxf(size, __shfl_xor_sync(0xffffffffu, size, step));
  if (threadIdx.x % 32 == 0)
    shared[threadIdx.x / 32] = size;
  __syncthreads();
  for (int warp = 0; warp < 8; warp++) size = fmaxf(size, shared[warp]);
  __syncthreads();
  return size == 0 ? 1 : size;
}

// Grid: blocks of 256 elements, each with a scale per moment.
extern "C" __global__ void __launch_bounds__(STATE_BLOCK)
    adamw_8bit(const float *grads, u64 count, const float *factors, float *params, u8 *codes1, u8 *codes2, float *scales1,
               float *scales2) {
  const float decay = factors[DECAY], beta1 = factors[BETA1], rest1 = factors[REST1], beta2 = factors[BETA2];
  const float rest2 = factors[REST2], root = factors[ROOT], eps = factors[EPS], step_size = factors[STEP_SIZE];
  __shared__ float unsigned_map[256];
  __shared__ float signed_map[256];
  __shared__ float tops[8];
  unsigned_map[threadIdx.x] = unsigned_dynamic(threadIdx.x);
  signed_map[threadIdx.x] = DYNAMIC_MAP[threadIdx.x];
  __syncthreads();
  u64 at = (u64)blockIdx.x * STATE_BLOCK + threadIdx.x;
  float first = 0, second = 0;
  if (at < count) {
    float gradient = grads[at];
    first = __fadd_rn(__fmul_rn(__fmul_rn(signed_map[codes1[at]], scales1[blockIdx.x]), beta1), __fmul_rn(rest1, gradient));
    second = __fadd_rn(__fmul_rn(__fmul_rn(unsigned_map[codes2[at]], scales2[blockIdx.x]), beta2),
                       __fmul_rn(__fmul_rn(rest2, gradient), gradient));
    float update = first / __fadd_rn(sqrtf(second) / root, eps);
    params[at] = __fadd_rn(__fmul_rn(params[at], decay), -__fmul_rn(step_size, update));
  }
  // The barriers inside lie between the last read of the old scales and the first write of the new ones.
  float top1 = block_top(fabsf(first), tops), top2 = block_top(fabsf(second), tops);
  if (at < count) {
    codes1[at] = (u8)nearest(signed_map, first / top1);
    codes2[at] = (u8)nearest(unsigned_map, second / top2);
  }
  if (threadIdx.x == 0) {
    scales1[blockIdx.x] = top1;
    scales2[blockIdx.x] = top2;
  }
}
KERNEL_REGISTER(adamw_8bit)

#define NORM_PIECE 8192

// The sum over a block of 256, in thread 0, in a fixed tree.
__device__ __forceinline__ double tree(double sum, double *shared) {
  shared[threadIdx.x] = sum;
  __syncthreads();
  for (int half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half)
      shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

// Squares of pieces of NORM_PIECE elements. Grid: pieces.
extern "C" __global__ void __launch_bounds__(256) norm_pieces(const float *x, u64 count, double *sums) {
  __shared__ double shared[256];
  u64 first = (u64)blockIdx.x * NORM_PIECE;
  double sum = 0;
  for (int at = threadIdx.x; at < NORM_PIECE && first + at < count; at += 256) sum += (double)x[first + at] * x[first + at];
  sum = tree(sum, shared);
  if (threadIdx.x == 0)
    sums[blockIdx.x] = sum;
}
KERNEL_REGISTER(norm_pieces)

// The root of the sum of all pieces. Grid: one.
extern "C" __global__ void __launch_bounds__(256) norm_join(const double *sums, int pieces, double *out) {
  __shared__ double shared[256];
  double sum = 0;
  for (int at = threadIdx.x; at < pieces; at += 256) sum += sums[at];
  sum = tree(sum, shared);
  if (threadIdx.x == 0)
    *out = sqrt(sum);
}
KERNEL_REGISTER(norm_join)

// x *= limit / (norm + 1e-6) where the norm is above the limit.
extern "C" __global__ void __launch_bounds__(256) clip(const double *norm, double limit, u64 count, float *x) {
  u64 at = (u64)blockIdx.x * 256 + threadIdx.x;
  if (at < count && *norm > limit)
    x[at] = __fmul_rn(x[at], (float)(limit / (*norm + 1e-6)));
}
KERNEL_REGISTER(clip)

// *out = the sum of all (+ *out). Grid: one.
extern "C" __global__ void __launch_bounds__(256) sum(const float *x, u64 count, int accumulate, double *out) {
  __shared__ double shared[256];
  double sum = 0;
  for (u64 at = threadIdx.x; at < count; at += 256) sum += (double)x[at];
  sum = tree(sum, shared);
  if (threadIdx.x == 0)
    *out = accumulate ? *out + sum : sum;
}
KERNEL_REGISTER(sum)
