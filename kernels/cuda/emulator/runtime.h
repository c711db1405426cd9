// The emulated device's threads, kernels and launches, as its own parts see them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

#define HIDDEN __attribute__((visibility("hidden")))
#define CUEMU_NOSAN __attribute__((no_sanitize("thread", "address", "undefined")))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};

namespace cuemu {
struct Fiber;
// Done once for all lanes that meet at it, which `lanes` has, null elsewhere.
typedef void (*WarpOperation)(Fiber **lanes, unsigned mask);

// A thread of the block that runs.
struct Fiber {
  uint3 thread;
  // Its number in the block.
  unsigned lin;
  // The barrier or warp operation it waits at.
  const char *file;
  int line;
  unsigned mask;
  WarpOperation operation;
  void *arg;
  unsigned long barriers, operations;
  Stack stack;
};

extern HIDDEN Fiber *cur;
extern HIDDEN uint3 block_index;
extern HIDDEN dim3 block_size, grid_size;

void yield_block(const char *file, int line);
void yield_warp(const char *file, int line, unsigned mask, WarpOperation operation, void *arg);
void *dynamic_shared();
// The kernel that runs, or ran last.
const char *running_kernel();
// Counts the blocks that were started.
unsigned long block_number();
enum class Schedule { FORWARD, REVERSE, RANDOM, WARPS, WARPS_REVERSE };
Schedule schedule();
// The order from the next launch on, named as in EMULATOR_ORDER.
void set_order(const char *order);

typedef void (*Entry)(void **parameters);
struct Kernel {
  Entry entry;
  std::vector<unsigned> sizes;
};
std::map<std::string, Kernel> &kernels();
// Runs a grid; `shared` bytes of dynamic shared memory.
void launch(const std::string &name, const Kernel &kernel, dim3 grid, dim3 block, size_t shared, void **parameters);

template <class... Types, size_t... Indices>
CUEMU_NOSAN void unpack(void (*kernel)(Types...), void **parameters, std::index_sequence<Indices...>) {
  kernel(*(Types *)parameters[Indices]...);
}
template <class... Types> CUEMU_NOSAN void call(void (*kernel)(Types...), void **parameters) {
  unpack(kernel, parameters, std::index_sequence_for<Types...>{});
}
template <class... Types> std::vector<unsigned> sizes(void (*)(Types...)) { return {(unsigned)sizeof(Types)...}; }

struct Shuffle {
  uint64_t value;
  unsigned source;
  uint64_t out;
};
void shuffle_lanes(Fiber **, unsigned);
template <class Type> CUEMU_NOSAN Type shuffle(const char *file, int line, unsigned mask, Type value, unsigned source) {
  Shuffle one{0, source, 0};
  __builtin_memcpy(&one.value, &value, sizeof value);
  yield_warp(file, line, mask, shuffle_lanes, &one);
  Type out;
  __builtin_memcpy(&out, &one.out, sizeof out);
  return out;
}
struct Ballot {
  unsigned predicate, out;
};
void ballot_lanes(Fiber **, unsigned);
CUEMU_NOSAN inline unsigned ballot(const char *file, int line, unsigned mask, int predicate) {
  Ballot one{predicate != 0, 0};
  yield_warp(file, line, mask, ballot_lanes, &one);
  return one.out;
}
inline unsigned lane() { return cur->lin & 31; }
inline unsigned lane_up(unsigned by) { return lane() < by ? lane() : lane() - by; }
inline unsigned lane_down(unsigned by) { return lane() + by > 31 ? lane() : lane() + by; }
} // namespace cuemu
