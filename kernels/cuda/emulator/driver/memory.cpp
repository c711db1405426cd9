// Device memory and pinned host memory.
#include "driver.h"

#include <sys/mman.h>

namespace driver::memory {

namespace {

const size_t PAGE = 4096;
// Of addresses; what lies between the end of an allocation and the page behind it is filled, read as NaN and looked at.
const size_t ALIGNMENT = 256;
const unsigned char FILL = 0xff;
// Freed allocations whose addresses are not given again.
const size_t KEPT = 4096;

struct Allocation {
  char *mapping;
  size_t length, mapped;
};

std::map<Address, Allocation> allocations, freed;
std::vector<Address> freed_order;
std::map<const char *, size_t> pinned;
size_t bytes, most_bytes;

size_t &total() {
  static size_t all = getenv("EMULATOR_MEMORY") ? strtoull(getenv("EMULATOR_MEMORY"), nullptr, 10) : 8ull << 30;
  return all;
}

template <class Map> auto containing(Map &map, typename Map::key_type key) {
  auto after = map.upper_bound(key);
  return after == map.begin() ? map.end() : --after;
}

bool is_filled(const Allocation &allocation, Address address) {
#if defined(__SANITIZE_ADDRESS__)
  (void)allocation, (void)address;
  return true;
#else
  const unsigned char *start = (const unsigned char *)address;
  const unsigned char *from = (const unsigned char *)allocation.mapping + PAGE;
  const unsigned char *end = (const unsigned char *)allocation.mapping + allocation.mapped - PAGE;
  // Beyond a few hundred bytes on either side nothing lies between an allocation and its pages but whole lines of it.
  auto filled = [](const unsigned char *at, const unsigned char *to) {
    return std::all_of(at, to, [](unsigned char byte) { return byte == FILL; });
  };
  return filled(from, start) && filled(start + allocation.length, end);
#endif
}

[[noreturn]] void damaged(Address address, const Allocation &allocation) {
  fprintf(stderr, "emulated driver: something wrote beside an allocation of %zu bytes at %llx\n", allocation.length, address);
  abort();
}

void forget_oldest() {
  if (freed_order.size() < KEPT) return;
  for (size_t i = 0; i < KEPT / 2; i++) {
    Allocation &old = freed[freed_order[i]];
    munmap(old.mapping, old.mapped);
    freed.erase(freed_order[i]);
  }
  freed_order.erase(freed_order.begin(), freed_order.begin() + KEPT / 2);
}

} // namespace

int allocate(Address *address, size_t length) {
  if (length == 0) return refuse(INVALID_VALUE, "an allocation of no bytes");
  if (length > total() || bytes > total() - length) return OUT_OF_MEMORY;
#if defined(__SANITIZE_ADDRESS__)
  void *memory;
  if (posix_memalign(&memory, ALIGNMENT, length)) return OUT_OF_MEMORY;
  memset(memory, FILL, length);
  *address = (Address)memory;
  allocations[*address] = {(char *)memory, length, length};
#else
  const size_t room = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, pages = (room + PAGE - 1) / PAGE * PAGE;
  void *memory = mmap(nullptr, pages + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return OUT_OF_MEMORY;
  char *mapping = (char *)memory;
  memset(mapping + PAGE, FILL, pages);
  mprotect(mapping, PAGE, PROT_NONE);
  mprotect(mapping + PAGE + pages, PAGE, PROT_NONE);
  *address = (Address)(mapping + PAGE + pages - room);
  allocations[*address] = {mapping, length, pages + 2 * PAGE};
#endif
  bytes += length;
  most_bytes = std::max(most_bytes, bytes);
  return SUCCESS;
}

int release(Address address) {
  auto found = allocations.find(address);
  if (found == allocations.end())
    return refuse(INVALID_VALUE, freed.count(address) ? "an allocation is freed twice" : "what is freed is no allocation");
  if (!is_filled(found->second, address)) damaged(address, found->second);
  bytes -= found->second.length;
#if defined(__SANITIZE_ADDRESS__)
  free(found->second.mapping);
#else
  // The address stays taken, so that whoever still uses it is seen.
  Allocation &old = found->second;
  mmap(old.mapping, old.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  forget_oldest();
  freed[address] = old;
  freed_order.push_back(address);
#endif
  allocations.erase(found);
  return SUCCESS;
}

bool holds(Address address, size_t length) {
  auto found = containing(allocations, address);
  if (found == allocations.end()) return false;
  const size_t at = address - found->first;
  return at <= found->second.length && length <= found->second.length - at;
}

bool is_allocation(Address address) {
  auto found = containing(allocations, address);
  return found != allocations.end() && address - found->first <= found->second.length;
}

bool is_intact(Address address) {
  auto found = containing(allocations, address);
  return found == allocations.end() || is_filled(found->second, found->first);
}

std::string describe(Address address) {
  auto found = containing(allocations, address), gone = containing(freed, address);
  if (gone != freed.end() && address < gone->first + gone->second.length)
    return "in an allocation of " + std::to_string(gone->second.length) + " bytes that was freed";
  if (found != allocations.end() && address < (Address)found->second.mapping + found->second.mapped)
    return std::to_string(address - found->first - found->second.length) + " bytes behind an allocation of " +
           std::to_string(found->second.length);
  auto next = allocations.upper_bound(address);
  if (next != allocations.end() && address >= (Address)next->second.mapping)
    return std::to_string(next->first - address) + " bytes before an allocation of " + std::to_string(next->second.length);
  return "in no allocation";
}

size_t used() { return bytes; }
size_t live() { return allocations.size(); }
size_t most() { return most_bytes; }
size_t size() { return total(); }
void resize(size_t length) { total() = length; }

size_t clear() {
  const size_t count = allocations.size();
  while (!allocations.empty()) release(allocations.begin()->first);
  return count;
}

bool is_pinned(const void *host, size_t length) {
  auto found = containing(pinned, (const char *)host);
  return found != pinned.end() && (const char *)host + length <= found->first + found->second;
}

size_t pinned_bytes() {
  size_t all = 0;
  for (const auto &one : pinned) all += one.second;
  return all;
}

} // namespace driver::memory

using namespace driver;

API cuMemAlloc_v2(Address *address, size_t length) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  if (streams::is_any_capturing()) return streams::forbid("an allocation while a stream captures");
  return memory::allocate(address, length);
}

API cuMemFree_v2(Address address) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  if (streams::is_any_capturing()) return streams::forbid("memory is freed while a stream captures");
  // Waits for the device.
  const int failed = streams::run_all();
  return failed ? failed : memory::release(address);
}

API cuMemAllocAsync(Address *address, size_t length, void *handle) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return streams::forbid("an allocation in a captured graph");
  return memory::allocate(address, length);
}

API cuMemFreeAsync(Address address, void *handle) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return streams::forbid("memory is freed in a captured graph");
  if (!memory::is_allocation(address)) return refuse(INVALID_VALUE, "what is freed is no allocation");
  return streams::submit(stream, [address] { return memory::release(address); });
}

API cuMemGetInfo_v2(size_t *free, size_t *total) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  *total = memory::size();
  *free = memory::size() - std::min(memory::size(), memory::used());
  return SUCCESS;
}

API cuMemHostAlloc(void **host, size_t length, unsigned) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  if (length == 0 || posix_memalign(host, 4096, length)) return length ? OUT_OF_MEMORY : INVALID_VALUE;
  memset(*host, 0xff, length);
  memory::pinned[(const char *)*host] = length;
  return SUCCESS;
}

API cuMemAllocHost_v2(void **host, size_t length) { return cuMemHostAlloc(host, length, 0); }

API cuMemFreeHost(void *host) {
  Guard guard(lock());
  if (!memory::pinned.count((const char *)host)) return refuse(INVALID_VALUE, "what is freed is no pinned memory");
  if (const int failed = streams::run_all()) return failed;
  memory::pinned.erase((const char *)host);
  free(host);
  return SUCCESS;
}

API cuMemHostRegister_v2(void *host, size_t length, unsigned) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  if (memory::pinned.count((const char *)host)) return HOST_MEMORY_ALREADY_REGISTERED;
  memory::pinned[(const char *)host] = length;
  return SUCCESS;
}

API cuMemHostUnregister(void *host) {
  Guard guard(lock());
  if (!memory::pinned.count((const char *)host)) return HOST_MEMORY_NOT_REGISTERED;
  if (const int failed = streams::run_all()) return failed;
  memory::pinned.erase((const char *)host);
  return SUCCESS;
}
