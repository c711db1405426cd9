// Dropout and noise from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), drawn at
// each element's own position: the numbers are the CPU's.
#include "operands.cuh"

#define RANDOM_THREADS 256

struct Words {
  u32 word[4];
};

// A stream's key and name.
struct Stream {
  u32 key[2], name[2];
  // Block `index` of the stream: four independent words.
  __device__ __forceinline__ Words block(u64 index) const {
    Words counter = {{(u32)index, (u32)(index >> 32), name[0], name[1]}};
    u32 k0 = key[0], k1 = key[1];
#pragma unroll
    for (int round = 0; round < 10; round++) {
      u64 low = (u64)0xd2511f53u * counter.word[0], high = (u64)0xcd9e8d57u * counter.word[2];
      counter = {{(u32)(high >> 32) ^ counter.word[1] ^ k0, (u32)high, (u32)(low >> 32) ^ counter.word[3] ^ k1, (u32)low}};
      k0 += 0x9e3779b9u;
      k1 += 0xbb67ae85u;
    }
    return counter;
  }
};

__device__ __forceinline__ float uniform(u32 word) { return __fmul_rn((float)(word >> 8), 1.0f / 16777216.0f); }

// Zeroes elements with `probability` and multiplies the others by `keep`. A thread has four; the first position is a
// multiple of four. Grid: elements / 1024.
template <class From, class To>
__device__ __forceinline__ void drop(const From *x, u64 count, const Stream &stream, u64 offset, float probability,
                                     float keep, int accumulate, To *out) {
  u64 first = ((u64)blockIdx.x * RANDOM_THREADS + threadIdx.x) * 4;
  if (first >= count)
    return;
  Words words = stream.block((offset + first) / 4);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u64 at = first + i;
    if (at >= count)
      return;
    float value = uniform(words.word[i]) < probability ? 0 : __fmul_rn(load_one(x + at), keep);
    store_one(out + at, accumulate ? __fadd_rn(load_one(out + at), value) : value);
  }
}

#define DROPOUT(name, From, To)                                                                                        \
  extern "C" __global__ void __launch_bounds__(RANDOM_THREADS)                                                         \
      name(const From *x, u64 count, u32 key0, u32 key1, u32 name0, u32 name1, const u64 *offset, float probability,   \
           float keep, int accumulate, To *out) {                                                                      \
    drop<From, To>(x, count, Stream{{key0, key1}, {name0, name1}}, *offset, probability, keep, accumulate, out);       \
  }                                                                                                                    \
  KERNEL_REGISTER(name)
DROPOUT(dropout_f32_f32, float, float)
#define DROPOUT_NARROW(T) DROPOUT(dropout_##T##_##T, T, T) DROPOUT(dropout_##T##_f32, T, float)
FOR_NARROW(DROPOUT_NARROW)

// out[·, width] += magnitude · (2 u - 1), a sequence's magnitude being strength / √elements. Grid: elements of the longest
// sequence / 256, sequences.
extern "C" __global__ void __launch_bounds__(RANDOM_THREADS)
    add_noise(const u32 *starts, int width, u32 key0, u32 key1, u32 name0, u32 name1, const u64 *offset, double strength,
              float *out) {
  u64 first = (u64)starts[blockIdx.y] * width, count = (u64)starts[blockIdx.y + 1] * width - first;
  u64 at = (u64)blockIdx.x * RANDOM_THREADS + threadIdx.x;
  if (at >= count)
    return;
  float magnitude = (float)(strength / sqrt((double)count));
  Stream stream = {{key0, key1}, {name0, name1}};
  u64 position = *offset + first + at;
  Words words = stream.block(position / 4);
  u32 word = words.word[0];
#pragma unroll
  for (int i = 1; i < 4; i++)
    if (position % 4 == i)
      word = words.word[i];
  float value = __fmul_rn(magnitude, __fadd_rn(__fmul_rn(2, uniform(word)), -1));
  out[first + at] = __fadd_rn(out[first + at], value);
}
KERNEL_REGISTER(add_noise)
