// Modules of PTX and launches of their kernels.
#include "../shared.h"
#include "driver.h"

#include <memory>

namespace driver {

namespace {

// Bytes of shared memory that a block has unasked.
const size_t SHARED_UNASKED = 48 << 10;

struct Function {
  std::string name;
  const cuemu::Kernel *kernel;
  // Bytes that may be asked for beside the kernel's variables.
  size_t dynamic;
};

struct Module {
  std::map<std::string, Function> functions;
};

std::map<Module *, std::unique_ptr<Module>> &modules() {
  static std::map<Module *, std::unique_ptr<Module>> all;
  return all;
}

std::string listed(const std::vector<unsigned> &sizes) {
  std::string text;
  for (unsigned size : sizes) text += (text.empty() ? "" : " ") + std::to_string(size);
  return text;
}

// Sizes of the parameters between an entry's brackets: `.param .u64 name`, or `.param .align 4 .b8 name[12]`.
std::vector<unsigned> parameter_sizes(const std::string &text) {
  std::vector<unsigned> sizes;
  for (size_t at = 0; (at = text.find(".param", at)) != std::string::npos;) {
    at += 6;
    const std::string one = text.substr(at, text.find_first_of(",)", at) - at);
    const size_t bracket = one.find('[');
    const size_t type = one.rfind(" .") == std::string::npos ? one.find('.') : one.rfind(" .") + 1;
    if (bracket != std::string::npos)
      sizes.push_back((unsigned)atoi(one.c_str() + bracket + 1));
    else
      sizes.push_back((unsigned)atoi(one.c_str() + type + 2) / 8);
  }
  return sizes;
}

int read_entries(const std::string &text, Module &module) {
  for (size_t at = 0; (at = text.find(".entry ", at)) != std::string::npos;) {
    at += 7;
    const size_t bracket = text.find_first_of("({", at);
    std::string name = text.substr(at, bracket - at);
    name.erase(name.find_last_not_of(" \n") + 1);
    std::vector<unsigned> sizes;
    if (text[bracket] == '(') sizes = parameter_sizes(text.substr(bracket, text.find(')', bracket) - bracket + 1));
    auto kernel = cuemu::kernels().find(name);
    if (kernel == cuemu::kernels().end()) return refuse(INVALID_PTX, "the PTX has a kernel that the source has not", name);
    if (kernel->second.sizes != sizes)
      return refuse(INVALID_PTX, "parameters differ between the PTX and the source",
                    name + " (" + listed(sizes) + " and " + listed(kernel->second.sizes) + " bytes)");
    const size_t declared = cuemu::SharedMemory::declared(name);
    if (declared > SHARED_UNASKED)
      return refuse(INVALID_PTX, "a kernel's variables take more shared memory than 48 KiB", name);
    module.functions[name] = {name, &kernel->second, SHARED_UNASKED - declared};
  }
  return SUCCESS;
}

} // namespace

struct Launch {
  const Function *function;
  dim3 grid, block;
  size_t shared;
  std::vector<std::vector<char>> values;
};

int launch(const Launch &launch) {
  const std::string &name = launch.function->name;
  trace("launch", name, launch.shared);
  counters().launches++;
  counters().launches_of[name]++;
  std::vector<void *> parameters;
  for (const std::vector<char> &value : launch.values) parameters.push_back((void *)value.data());
  cuemu::launch(name, *launch.function->kernel, launch.grid, launch.block, launch.shared, parameters.data());
  for (const std::vector<char> &value : launch.values) {
    Address address;
    if (value.size() != sizeof address) continue;
    memcpy(&address, value.data(), sizeof address);
    if (memory::is_intact(address)) continue;
    fprintf(stderr, "emulated driver: kernel %s wrote beside an allocation that it was given\n", name.c_str());
    abort();
  }
  return SUCCESS;
}

} // namespace driver

using namespace driver;

API cuModuleLoadData(void **handle, const void *image) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  // A module that is loaded may wait for the device.
  if (streams::is_any_capturing()) return streams::forbid("a module is loaded while a stream captures");
  const std::string text = (const char *)image;
  if (text.find(".version") == std::string::npos) return refuse(INVALID_PTX, "only PTX is taken");
  auto module = std::make_unique<Module>();
  if (const int failed = read_entries(text, *module)) return failed;
  *handle = module.get();
  modules()[module.get()] = std::move(module);
  return SUCCESS;
}

API cuModuleLoadDataEx(void **handle, const void *image, unsigned, void *, void **) {
  return cuModuleLoadData(handle, image);
}

API cuModuleUnload(void *handle) {
  Guard guard(lock());
  const int failed = streams::run_all();
  return modules().erase((Module *)handle) ? failed : refuse(INVALID_HANDLE, "a module that is not loaded");
}

API cuModuleGetFunction(void **function, void *handle, const char *name) {
  Guard guard(lock());
  if (!modules().count((Module *)handle)) return refuse(INVALID_HANDLE, "a module that is not loaded");
  auto &functions = ((Module *)handle)->functions;
  auto found = functions.find(name);
  if (found == functions.end()) return NOT_FOUND;
  *function = &found->second;
  return SUCCESS;
}

API cuFuncSetAttribute(void *handle, int attribute, int value) {
  Guard guard(lock());
  Function &function = *(Function *)handle;
  // The most dynamic shared memory; the others are preferences.
  if (attribute != 8) return SUCCESS;
  if (value < 0 || (size_t)value + cuemu::SharedMemory::declared(function.name) > shared_most())
    return refuse(INVALID_VALUE, "more shared memory than a device has", function.name);
  function.dynamic = std::max(function.dynamic, (size_t)value);
  return SUCCESS;
}

API cuFuncGetAttribute(int *value, int attribute, void *handle) {
  Guard guard(lock());
  const Function &function = *(Function *)handle;
  *value = attribute == 0   ? 1024
           : attribute == 1 ? (int)cuemu::SharedMemory::declared(function.name)
           : attribute == 8 ? (int)function.dynamic
                            : 0;
  return SUCCESS;
}

API cuLaunchKernel(void *handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream_handle, void **parameters, void **extra) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  Stream *stream = streams::of(stream_handle);
  if (!stream) return INVALID_HANDLE;
  counters().launch_calls++;
  const Function &function = *(Function *)handle;
  const unsigned long threads = (unsigned long)bx * by * bz;
  const bool in_limits = gx && gy && gz && gx <= 0x7fffffffu && gy <= 65535 && gz <= 65535 && threads && bx <= 1024 &&
                         by <= 1024 && bz <= 64 && threads <= 1024 && shared <= function.dynamic;
  if (!in_limits || extra)
    return refuse(INVALID_VALUE, "a launch beyond the limits",
                  function.name + " (grid " + std::to_string(gx) + "," + std::to_string(gy) + "," + std::to_string(gz) +
                      ", " + std::to_string(threads) + " threads, " + std::to_string(shared) + " bytes of " +
                      std::to_string(function.dynamic) + " shared)");
  Launch one{&function, {gx, gy, gz}, {bx, by, bz}, shared, {}};
  for (size_t i = 0; i < function.kernel->sizes.size(); i++) {
    const char *value = (const char *)parameters[i];
    one.values.emplace_back(value, value + function.kernel->sizes[i]);
  }
  return streams::submit(stream, [one = std::move(one)] { return launch(one); });
}
