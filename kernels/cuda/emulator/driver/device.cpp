// The device, its context, and errors.
#include "driver.h"

#include <signal.h>
#include <unistd.h>

namespace driver {

namespace {
int capability[2] = {8, 0};
int version = 12080;
int retained;
thread_local bool entered;
int context;
struct sigaction earlier;

// A fault of a kernel ends the program with its place; others go where they went before.
void fault(int, siginfo_t *info, void *) {
  if (!cuemu::cur) {
    sigaction(SIGSEGV, &earlier, nullptr);
    return;
  }
  const bool overflow = cuemu::cur->stack.has_overflowed_at(info->si_addr);
  fprintf(stderr, "emulated driver: kernel %s, block (%u,%u,%u), thread %u ", cuemu::running_kernel(),
          cuemu::block_index.x, cuemu::block_index.y, cuemu::block_index.z, cuemu::cur->lin);
  if (overflow)
    fprintf(stderr, "overflowed its stack\n");
  else
    fprintf(stderr, "touched %p: %s\n", info->si_addr, memory::describe((Address)info->si_addr).c_str());
  _exit(139);
}

void watch_faults() {
#ifndef CUEMU_SANITIZED
  static bool done = false;
  if (done) return;
  done = true;
  struct sigaction action = {};
  action.sa_sigaction = fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &earlier);
  // Threads of Rust have a stack for signals; others get one.
  stack_t old;
  if (!sigaltstack(nullptr, &old) && (old.ss_flags & SS_DISABLE)) {
    static char memory[64 << 10];
    stack_t other = {};
    other.ss_sp = memory;
    other.ss_size = sizeof memory;
    sigaltstack(&other, nullptr);
  }
#else
  (void)fault;
#endif
}
} // namespace

std::recursive_mutex &lock() {
  static std::recursive_mutex one;
  return one;
}

int refuse(int code, const char *why, const std::string &what) {
  fprintf(stderr, "emulated driver: %s%s%s\n", why, what.empty() ? "" : ": ", what.c_str());
  return code;
}

void trace(const char *what, const std::string &name, size_t bytes) {
  static const bool wanted = getenv("EMULATOR_TRACE") != nullptr;
  if (wanted) fprintf(stderr, "emulated driver: %s %s %zu\n", what, name.c_str(), bytes);
}

bool has_context() { return entered && retained > 0; }

size_t shared_most() { return capability[0] < 8 ? 64 << 10 : 163 << 10; }

Counters &counters() {
  static Counters all;
  return all;
}

} // namespace driver

using namespace driver;

API cuInit(unsigned) {
  Guard guard(lock());
  watch_faults();
  return SUCCESS;
}
API cuDriverGetVersion(int *found) {
  Guard guard(lock());
  *found = version;
  return SUCCESS;
}
API cuDeviceGetCount(int *count) {
  *count = 1;
  return SUCCESS;
}
API cuDeviceGet(int *device, int ordinal) {
  *device = 0;
  return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetName(char *name, int length, int) {
  snprintf(name, (size_t)length, "CPU emulation (no GPU)");
  return SUCCESS;
}
API cuDeviceGetUuid_v2(char *uuid, int) {
  memset(uuid, 0, 16);
  return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t *bytes, int) {
  Guard guard(lock());
  *bytes = memory::size();
  return SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, int) {
  Guard guard(lock());
  switch (attribute) {
  case 1: // threads of a block
  case 2:
  case 3: *value = 1024; break;
  case 4: *value = 64; break;
  case 5: *value = 0x7fffffff; break;
  case 6:
  case 7: *value = 65535; break;
  case 8: *value = 48 << 10; break;
  case 10: *value = 32; break;
  case 16: *value = 4; break; // multiprocessors
  case 75: *value = capability[0]; break;
  case 76: *value = capability[1]; break;
  case 81: *value = capability[0] < 8 ? 64 << 10 : 164 << 10; break;
  case 97: *value = (int)shared_most(); break;
  case 115: *value = 1; break;        // memory pools
  default: *value = 0;
  }
  return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void **handle, int) {
  Guard guard(lock());
  retained++;
  *handle = &context;
  return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int) {
  Guard guard(lock());
  if (retained == 0) return refuse(INVALID_CONTEXT, "the context is released more often than it was retained");
  if (--retained) return SUCCESS;
  const int failed = streams::run_all();
  const size_t bytes = memory::used(), count = memory::clear();
  counters().leaked += count;
  if (count)
    fprintf(stderr, "emulated driver: %zu allocations of %zu bytes were not freed before the context\n", count, bytes);
  return failed;
}

API cuCtxSetCurrent(void *handle) {
  if (handle && handle != &context) return refuse(INVALID_CONTEXT, "a context that is not there");
  entered = handle != nullptr;
  return SUCCESS;
}
API cuCtxGetCurrent(void **handle) {
  *handle = entered ? &context : nullptr;
  return SUCCESS;
}

API cuGetErrorName(int code, const char **name) {
  static const std::map<int, const char *> names = {
      {SUCCESS, "CUDA_SUCCESS"},
      {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
      {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
      {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
      {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
      {INVALID_PTX, "CUDA_ERROR_INVALID_PTX"},
      {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
      {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
      {NOT_READY, "CUDA_ERROR_NOT_READY"},
      {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
      {HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"},
      {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
      {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
      {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"},
      {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"},
      {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"},
      {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT"},
  };
  auto found = names.find(code);
  *name = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
  return SUCCESS;
}

API cuGetErrorString(int code, const char **text) {
  *text = code == OUT_OF_MEMORY ? "out of memory" : "see the messages of the emulated driver";
  return SUCCESS;
}

// Controls of the tests.
EXPORT void emulator_set_order(const char *order) {
  Guard guard(lock());
  cuemu::set_order(order);
}
EXPORT void emulator_set_capability(int major, int minor) {
  Guard guard(lock());
  capability[0] = major;
  capability[1] = minor;
}
EXPORT void emulator_set_version(int number) {
  Guard guard(lock());
  version = number;
}
EXPORT void emulator_set_memory(size_t bytes) {
  Guard guard(lock());
  memory::resize(bytes);
}
// 0: none; 1: all; 2: the one that was created first; 3: all others.
EXPORT void emulator_set_late_streams(int late) {
  Guard guard(lock());
  streams::set_late((streams::Late)late);
}
// Leaves out one wait for an event, the host's or a stream's, counted from now on and from 1; 0 for none. How many there
// were so far.
EXPORT size_t emulator_skip_wait(size_t number) {
  Guard guard(lock());
  const size_t before = counters().event_waits;
  streams::skip_wait(number);
  return before;
}

// Bytes that are allocated, and that were at most.
EXPORT size_t emulator_used() {
  Guard guard(lock());
  return memory::used();
}
EXPORT size_t emulator_most_used() {
  Guard guard(lock());
  return memory::most();
}
EXPORT size_t emulator_allocations() {
  Guard guard(lock());
  return memory::live();
}
// Allocations that were left when their context ended.
EXPORT size_t emulator_leaked() {
  Guard guard(lock());
  return counters().leaked;
}
EXPORT size_t emulator_launches() {
  Guard guard(lock());
  return counters().launches;
}
EXPORT size_t emulator_launches_of(const char *kernel) {
  Guard guard(lock());
  return counters().launches_of[kernel];
}
// Kernels that were launched one by one or captured; those of a graph run without a call of their own.
EXPORT size_t emulator_launch_calls() {
  Guard guard(lock());
  return counters().launch_calls;
}
EXPORT size_t emulator_graph_launches() {
  Guard guard(lock());
  return counters().graph_launches;
}
// How often the host waited for the device.
EXPORT size_t emulator_waits() {
  Guard guard(lock());
  return counters().waits;
}
// Page-locked host memory.
EXPORT size_t emulator_pinned() {
  Guard guard(lock());
  return memory::pinned_bytes();
}
// Copies of host memory that was not pinned, for which the real one may wait.
EXPORT size_t emulator_pageable_copies() {
  Guard guard(lock());
  return counters().pageable;
}
EXPORT size_t emulator_bytes_to_device() {
  Guard guard(lock());
  return counters().to_device;
}
EXPORT size_t emulator_bytes_to_host() {
  Guard guard(lock());
  return counters().to_host;
}
