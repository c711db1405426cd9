// A CUDA driver on the emulator: the part that programs of this crate call.
//
// Device memory is host memory: what nobody wrote reads as NaN, pages that nobody may touch lie around each allocation and
// take its place when it is freed; the address sanitizer has it instead where it is built in. PTX is not executed: its
// kernels are those of the same source that were compiled with this library, and names and sizes of parameters must agree.
//
// Set by the environment: EMULATOR_ORDER (emulator.h), EMULATOR_MEMORY (bytes of the device), EMULATOR_STREAMS (`late`: what
// is queued runs only when somebody waits for it; `first-late`: only what is queued on the stream that was created first, so
// that all others are as far ahead of it as they may be; `others-late`: the other way round; a missing wait shows under one of
// them). EMULATOR_TRACE prints each launch and copy.
#pragma once
#include "../runtime.h"

#include <functional>
#include <mutex>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define API EXPORT int

namespace driver {

typedef unsigned long long Address;

enum Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201,
  INVALID_PTX = 218,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  HOST_MEMORY_ALREADY_REGISTERED = 712,
  HOST_MEMORY_NOT_REGISTERED = 713,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
  CAPTURE_UNJOINED = 904,
  CAPTURE_ISOLATION = 905,
  CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
};

typedef std::lock_guard<std::recursive_mutex> Guard;
std::recursive_mutex &lock();
// Says why on the standard error, and gives the code back.
int refuse(int code, const char *why, const std::string &what = "");
void trace(const char *what, const std::string &name, size_t bytes);
// Whether the calling thread has a context.
bool has_context();
// Bytes of shared memory that a block can have if it asks.
size_t shared_most();

// What tests ask for.
struct Counters {
  size_t launches = 0, launch_calls = 0, graph_launches = 0, waits = 0, event_waits = 0, pageable = 0, to_device = 0, to_host = 0, leaked = 0;
  std::map<std::string, size_t> launches_of;
};
Counters &counters();

namespace memory {
int allocate(Address *address, size_t length);
int release(Address address);
// Whether all of a range is in one allocation.
bool holds(Address address, size_t length);
bool is_allocation(Address address);
// Whether the bytes beside the allocation that an address is in are as they were.
bool is_intact(Address address);
// Where an address is, for people.
std::string describe(Address address);
size_t used();
size_t live();
size_t most();
size_t size();
void resize(size_t bytes);
// Frees everything; how many allocations there were.
size_t clear();
bool is_pinned(const void *host, size_t length);
size_t pinned_bytes();
} // namespace memory

struct Graph;
struct Event;
typedef std::function<int()> Operation;

struct Stream {
  std::vector<Operation> queue;
  size_t first = 0;
  unsigned long issued = 0, completed = 0;
  // What it captures into, and whether capture began here.
  Graph *capture = nullptr;
  bool began = false;
  // What it has captured, and what of other streams goes before what it captures next.
  unsigned long captured = 0;
  std::map<Stream *, unsigned long> seen;
};

namespace streams {
// The stream of a handle; null if there is none.
Stream *of(void *handle);
// Runs, queues or captures an operation.
int submit(Stream *stream, Operation operation);
// Runs what was submitted up to a number; the first error.
int run_through(Stream *stream, unsigned long number);
int run_all();
bool is_any_capturing();
// Spoils all captures, as the real one does when something is called that cannot be in a graph.
int forbid(const char *why, int code = CAPTURE_UNSUPPORTED);
enum class Late { NONE, ALL, FIRST, OTHERS };
void set_late(Late late);
// The wait for an event, counted from now on and from 1, that is left out: a defect.
void skip_wait(size_t number);
} // namespace streams

// Launches a kernel now.
struct Launch;
int launch(const Launch &launch);

} // namespace driver
