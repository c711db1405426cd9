// The part of the CUDA driver that the device calls, on the emulator. Device memory is host memory: filled with ones, so
// that what nobody wrote reads as NaN, and between pages that nobody may touch; the address sanitizer has it instead where
// it is built in. PTX is not executed: its kernels are those of the same source that were compiled with this library, and
// names and sizes of parameters must agree.
#include "emulator.h"

#include <mutex>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

typedef unsigned long long Address;
enum Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_DEVICE = 101,
  INVALID_PTX = 218,
  NOT_FOUND = 500,
};

const size_t MEMORY = 8ull << 30;
const size_t PAGE = 4096;
const size_t ALIGNMENT = 64;
// Dynamic shared memory that a kernel has unasked, and that it can have (compute capability 8.6 and 8.9).
const int SHARED_UNASKED = 48 << 10, SHARED_MOST = 99 << 10;
const unsigned char SLACK = 0xa5;

struct Allocation {
  char *mapping;
  size_t length, mapped;
};

struct Function {
  std::string name;
  const cuemu::Kernel *kernel;
  int shared = SHARED_UNASKED;
};

struct Module {
  std::map<std::string, Function> functions;
};

std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> Guard;
std::map<Address, Allocation> allocations;
size_t used, most_used, launches;
const char *running = "";
int capability[2] = {8, 0};

int refuse(int code, const char *why, const char *what = "") {
  fprintf(stderr, "emulated driver: %s%s%s\n", why, *what ? ": " : "", what);
  return code;
}

bool inside(Address address, size_t length) {
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin())
    return false;
  --after;
  return address + length <= after->first + after->second.length;
}

void touched_nothing(int, siginfo_t *info, void *) {
  fprintf(stderr, "emulated driver: kernel %s touched %p outside of every allocation, block (%u,%u,%u)", running,
          info->si_addr, cuemu::block_index.x, cuemu::block_index.y, cuemu::block_index.z);
  if (cuemu::cur)
    fprintf(stderr, " thread %u", cuemu::cur->lin);
  fprintf(stderr, "\n");
  _exit(139);
}

// The bytes between an allocation and the pages around it.
bool slack_is_intact(Address address, const Allocation &allocation) {
#if defined(__SANITIZE_ADDRESS__)
  (void)address, (void)allocation;
  return true;
#else
  const unsigned char *from = (const unsigned char *)allocation.mapping + PAGE;
  const unsigned char *end = (const unsigned char *)allocation.mapping + allocation.mapped - PAGE;
  for (const unsigned char *byte = from; byte < (const unsigned char *)address; byte++)
    if (*byte != SLACK)
      return false;
  for (const unsigned char *byte = (const unsigned char *)address + allocation.length; byte < end; byte++)
    if (*byte != SLACK)
      return false;
  return true;
#endif
}

// Sizes of the parameters of an entry, from its text up to the closing bracket.
std::vector<unsigned> parameter_sizes(std::string text) {
  std::vector<unsigned> sizes;
  size_t at = 0;
  while ((at = text.find(".param", at)) != std::string::npos) {
    at += 6;
    unsigned size = 0;
    // `.u64 name`, or `.align 4 .b8 name[12]`.
    size_t end = text.find_first_of(",)", at);
    std::string one = text.substr(at, end == std::string::npos ? end : end - at);
    size_t bracket = one.find('['), type = one.find_last_of('.');
    if (bracket != std::string::npos)
      size = (unsigned)atoi(one.c_str() + bracket + 1);
    else if (type != std::string::npos)
      size = (unsigned)atoi(one.c_str() + type + 2) / 8;
    sizes.push_back(size);
  }
  return sizes;
}

} // namespace

// Controls of the tests.
extern "C" __attribute__((visibility("default"))) void emulator_set_order(const char *order) {
  Guard guard(lock);
  cuemu::set_order(order);
}
extern "C" __attribute__((visibility("default"))) void emulator_set_capability(int major, int minor) {
  Guard guard(lock);
  capability[0] = major;
  capability[1] = minor;
}
extern "C" __attribute__((visibility("default"))) size_t emulator_used() {
  Guard guard(lock);
  return used;
}
extern "C" __attribute__((visibility("default"))) size_t emulator_launches() {
  Guard guard(lock);
  return launches;
}

API cuInit(unsigned) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  static char stack[65536];
  stack_t other = {};
  other.ss_sp = stack;
  other.ss_size = sizeof stack;
  sigaltstack(&other, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = touched_nothing;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
#else
  (void)touched_nothing;
#endif
  return SUCCESS;
}

API cuDriverGetVersion(int *version) {
  *version = 12080;
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

API cuDeviceTotalMem_v2(size_t *bytes, int) {
  *bytes = MEMORY;
  return SUCCESS;
}

API cuDeviceGetAttribute(int *value, int attribute, int) {
  Guard guard(lock);
  switch (attribute) {
  case 1: *value = 1024; break;
  case 8: *value = SHARED_UNASKED; break;
  case 10: *value = 32; break;
  case 16: *value = 4; break;
  case 75: *value = capability[0]; break;
  case 76: *value = capability[1]; break;
  case 97: *value = SHARED_MOST; break;
  default: *value = 0;
  }
  return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void **context, int) {
  static int one;
  *context = &one;
  return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

API cuCtxSetCurrent(void *) { return SUCCESS; }

API cuMemGetInfo_v2(size_t *free, size_t *total) {
  Guard guard(lock);
  *total = MEMORY;
  *free = MEMORY - used;
  return SUCCESS;
}

API cuStreamCreate(void **stream, unsigned) {
  static int one;
  *stream = &one;
  return SUCCESS;
}

API cuStreamDestroy_v2(void *) { return SUCCESS; }

API cuStreamSynchronize(void *) { return SUCCESS; }

API cuMemAlloc_v2(Address *address, size_t length) {
  Guard guard(lock);
  if (length == 0)
    return refuse(INVALID_VALUE, "an allocation of no bytes");
  if (used + length > MEMORY)
    return OUT_OF_MEMORY;
#if defined(__SANITIZE_ADDRESS__)
  void *memory;
  if (posix_memalign(&memory, 256, length))
    return OUT_OF_MEMORY;
  memset(memory, 0xff, length);
  *address = (Address)memory;
  allocations[*address] = {(char *)memory, length, length};
#else
  size_t room = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, pages = (room + PAGE - 1) / PAGE * PAGE;
  char *mapping = (char *)mmap(nullptr, pages + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED)
    return OUT_OF_MEMORY;
  char *start = mapping + PAGE + pages - room;
  memset(mapping + PAGE, SLACK, pages);
  memset(start, 0xff, length);
  mprotect(mapping, PAGE, PROT_NONE);
  mprotect(mapping + PAGE + pages, PAGE, PROT_NONE);
  *address = (Address)start;
  allocations[*address] = {mapping, length, pages + 2 * PAGE};
#endif
  used += length;
  most_used = std::max(most_used, used);
  return SUCCESS;
}

API cuMemFree_v2(Address address) {
  Guard guard(lock);
  auto found = allocations.find(address);
  if (found == allocations.end())
    return refuse(INVALID_VALUE, "what is freed is no allocation");
  if (!slack_is_intact(address, found->second)) {
    fprintf(stderr, "emulated driver: something wrote beside an allocation of %zu bytes\n", found->second.length);
    abort();
  }
  used -= found->second.length;
#if defined(__SANITIZE_ADDRESS__)
  free(found->second.mapping);
#else
  munmap(found->second.mapping, found->second.mapped);
#endif
  allocations.erase(found);
  return SUCCESS;
}

API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t length, void *) {
  Guard guard(lock);
  if (!inside(to, length))
    return refuse(INVALID_VALUE, "a copy to outside of an allocation");
  memcpy((void *)to, from, length);
  return SUCCESS;
}

API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t length, void *) {
  Guard guard(lock);
  if (!inside(from, length))
    return refuse(INVALID_VALUE, "a copy from outside of an allocation");
  memcpy(to, (const void *)from, length);
  return SUCCESS;
}

API cuMemsetD8Async(Address to, unsigned char value, size_t length, void *) {
  Guard guard(lock);
  if (!inside(to, length))
    return refuse(INVALID_VALUE, "a fill outside of an allocation");
  memset((void *)to, value, length);
  return SUCCESS;
}

API cuModuleLoadData(void **module, const void *image) {
  Guard guard(lock);
  std::string text = (const char *)image;
  if (text.find(".version") == std::string::npos)
    return refuse(INVALID_PTX, "only PTX is taken");
  Module *loaded = new Module;
  for (size_t at = 0; (at = text.find(".entry ", at)) != std::string::npos;) {
    at += 7;
    size_t bracket = text.find('(', at), close = text.find(')', at);
    std::string name = text.substr(at, bracket - at);
    name.erase(name.find_last_not_of(" \n") + 1);
    auto kernel = cuemu::kernels().find(name);
    if (kernel == cuemu::kernels().end()) {
      delete loaded;
      return refuse(INVALID_PTX, "the PTX has a kernel that the source has not", name.c_str());
    }
    if (kernel->second.sizes != parameter_sizes(text.substr(bracket, close - bracket + 1))) {
      delete loaded;
      return refuse(INVALID_PTX, "parameters differ between the PTX and the source", name.c_str());
    }
    loaded->functions[name] = {name, &kernel->second};
  }
  *module = loaded;
  return SUCCESS;
}

API cuModuleUnload(void *module) {
  delete (Module *)module;
  return SUCCESS;
}

API cuModuleGetFunction(void **function, void *module, const char *name) {
  Guard guard(lock);
  auto &functions = ((Module *)module)->functions;
  auto found = functions.find(name);
  if (found == functions.end())
    return NOT_FOUND;
  *function = &found->second;
  return SUCCESS;
}

API cuFuncSetAttribute(void *function, int attribute, int value) {
  Guard guard(lock);
  if (attribute != 8)
    return SUCCESS;
  if (value > SHARED_MOST)
    return refuse(INVALID_VALUE, "more shared memory than a device has", ((Function *)function)->name.c_str());
  ((Function *)function)->shared = value;
  return SUCCESS;
}

API cuLaunchKernel(void *handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *, void **parameters, void **) {
  Guard guard(lock);
  Function &function = *(Function *)handle;
  unsigned long threads = (unsigned long)bx * by * bz;
  if (!gx || !gy || !gz || gx > 0x7fffffffu || gy > 65535 || gz > 65535 || !threads || threads > 1024 ||
      (int)shared > function.shared)
    return refuse(INVALID_VALUE, "a launch beyond the limits", function.name.c_str());
  running = function.name.c_str();
  launches++;
  cuemu::launch(function.kernel->entry, {gx, gy, gz}, {bx, by, bz}, shared, parameters);
  running = "";
  return SUCCESS;
}

API cuGetErrorName(int code, const char **name) {
  switch (code) {
  case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
  case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
  case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
  case INVALID_PTX: *name = "CUDA_ERROR_INVALID_PTX"; break;
  case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
  default: *name = "CUDA_ERROR_UNKNOWN";
  }
  return SUCCESS;
}

API cuGetErrorString(int, const char **text) {
  *text = "see the messages of the emulated driver";
  return SUCCESS;
}
