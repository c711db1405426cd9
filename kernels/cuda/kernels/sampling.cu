// The next token from rows of logits: the most likely one, or one drawn after temperature, top-k and top-p. Likelihoods
// are integers of 40 bits after the binary point, so sums and draws do not depend on an order. One block a row.
#include "operands.cuh"

#define SAMPLE_THREADS 256

// Grows with the float, alike for both zeros; a NaN is least.
__device__ __forceinline__ u32 rank_of(float value) {
  if (value != value)
    return 0;
  u32 bits = bits_of_value(__fadd_rn(value, 0.0f));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The highest rank and the first place that has it, of all threads.
__device__ __forceinline__ void highest(const float *row, int vocabulary, u32 *ranks, u32 *places) {
  u32 best = 0, place = 0;
  for (int i = threadIdx.x; i < vocabulary; i += SAMPLE_THREADS) {
    u32 rank = rank_of(row[i]);
    if (i == (int)threadIdx.x || rank > best) {
      best = rank;
      place = i;
    }
  }
  ranks[threadIdx.x] = best;
  places[threadIdx.x] = (int)threadIdx.x < vocabulary ? place : 0xffffffffu;
  __syncthreads();
  for (int half = SAMPLE_THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      u32 rank = ranks[threadIdx.x + half], at = places[threadIdx.x + half];
      if (rank > ranks[threadIdx.x] || (rank == ranks[threadIdx.x] && at < places[threadIdx.x])) {
        ranks[threadIdx.x] = rank;
        places[threadIdx.x] = at;
      }
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_greedy(const float *logits, int vocabulary, u32 *ids) {
  __shared__ u32 ranks[SAMPLE_THREADS];
  __shared__ u32 places[SAMPLE_THREADS];
  highest(logits + (u64)blockIdx.x * vocabulary, vocabulary, ranks, places);
  if (threadIdx.x == 0)
    ids[blockIdx.x] = places[0];
}
KERNEL_REGISTER(sample_greedy)

struct Likelihood {
  float top, sharpness;
  __device__ __forceinline__ u64 of(float logit) const {
    if (logit != logit)
      return 0;
    return (u64)(expf(__fmul_rn(__fadd_rn(logit, -top), sharpness)) * 1099511627776.0f);
  }
};

// The tokens that stay: all ranks above `rank`, and the first `equal` of those that have it.
struct Kept {
  u32 rank;
  u64 equal;
};

// The fewest of the highest ranks whose measure reaches `target`: their likelihoods if `mass`, else their number. Eight
// bits of the rank at a time.
__device__ __forceinline__ Kept fewest(const float *row, int vocabulary, const Likelihood &likelihood, bool mass,
                                       u64 target, u64 *bins, u64 *found) {
  u32 prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocabulary; i += SAMPLE_THREADS) {
      u32 rank = rank_of(row[i]);
      if (shift < 24 && rank >> (shift + 8) != prefix >> (shift + 8))
        continue;
      atomicAdd(&bins[rank >> shift & 255], mass ? likelihood.of(row[i]) : 1ull);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      u64 left = target;
      int bin = 255;
      while (bin > 0 && bins[bin] < left)
        left -= bins[bin--];
      found[0] = bin;
      found[1] = left;
    }
    __syncthreads();
    prefix |= (u32)found[0] << shift;
    target = found[1];
    __syncthreads();
  }
  u64 each = 1;
  if (mass) {
    float value = value_of_bits(prefix >> 31 ? prefix & 0x7fffffffu : ~prefix);
    each = likelihood.of(value);
    if (each == 0)
      each = 1;
  }
  return {prefix, (target + each - 1) / each};
}

// Draws with `random[row]`, uniform over 64 bits. `sharpness` is one over the temperature; `top_k` of 0 and `top_p` of
// 1 keep all. A row without a finite logit gives its first token.
extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_tokens(const float *logits, int vocabulary, float sharpness, u32 top_k, float top_p, const u64 *random,
                  u32 *ids) {
  __shared__ u32 ranks[SAMPLE_THREADS];
  __shared__ u32 places[SAMPLE_THREADS];
  __shared__ u64 bins[SAMPLE_THREADS];
  __shared__ u64 equals[SAMPLE_THREADS];
  __shared__ u64 found[2];
  const float *row = logits + (u64)blockIdx.x * vocabulary;
  highest(row, vocabulary, ranks, places);
  const u32 first = places[0];
  Likelihood likelihood = {row[first], sharpness};
  Kept kept = {0, (u64)vocabulary};
  if (top_k > 0 && top_k < (u32)vocabulary)
    kept = fewest(row, vocabulary, likelihood, false, top_k, bins, found);

  // A thread's stretch of places, so that sums over the threads are sums in the order of the places.
  const int each = (vocabulary + SAMPLE_THREADS - 1) / SAMPLE_THREADS;
  const int from = (int)threadIdx.x * each;
  const int to = from + each < vocabulary ? from + each : vocabulary;
  u64 total = 0, before = 0, random_at = 0;
  for (int round = top_p < 1.0f ? 0 : 1; round < 2; round++) {
    u64 equal = 0;
    for (int i = from; i < to; i++)
      equal += rank_of(row[i]) == kept.rank;
    equals[threadIdx.x] = equal;
    __syncthreads();
    u64 rank = 0;
    for (u32 i = 0; i < threadIdx.x; i++)
      rank += equals[i];
    u64 sum = 0;
    for (int i = from; i < to; i++) {
      u32 here = rank_of(row[i]);
      if (here > kept.rank || (here == kept.rank && rank++ < kept.equal))
        sum += likelihood.of(row[i]);
    }
    bins[threadIdx.x] = sum;
    __syncthreads();
    total = 0;
    before = 0;
    for (u32 i = 0; i < SAMPLE_THREADS; i++) {
      if (i == threadIdx.x)
        before = total;
      total += bins[i];
    }
    __syncthreads();
    if (round == 0) {
      u64 target = (u64)((double)total * (double)top_p);
      kept = fewest(row, vocabulary, likelihood, true, target > 0 ? target : 1, bins, found);
    }
  }

  random_at = __umul64hi(random[blockIdx.x], total);
  if (threadIdx.x == 0)
    ids[blockIdx.x] = first;
  __syncthreads();
  u64 rank = 0;
  for (u32 i = 0; i < threadIdx.x; i++)
    rank += equals[i];
  for (int i = from; i < to; i++) {
    u32 here = rank_of(row[i]);
    if (here < kept.rank || (here == kept.rank && rank++ >= kept.equal))
      continue;
    u64 size = likelihood.of(row[i]);
    if (random_at >= before && random_at - before < size)
      ids[blockIdx.x] = i;
    before += size;
  }
}
KERNEL_REGISTER(sample_tokens)
