#include "shared.h"
#include "runtime.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>

// The section must exist even if no kernel has shared memory.
__attribute__((section("cuemu_shared"), used)) static char anchor[64];
extern HIDDEN char __start_cuemu_shared[], __stop_cuemu_shared[];

namespace cuemu {

namespace {
// The most that a launch can ask for, rounded up, and the page behind it that nobody may touch.
const size_t MOST = 256 << 10, GUARD = 4096;
const size_t FENCE = 32;

// The kernel in the mangled name of a variable inside a function with C linkage, `_ZZ4copyE4tile`; else nothing.
std::string owner(const char *name) {
  if (strncmp(name, "_ZZ", 3)) return "";
  char *end;
  const size_t length = strtoul(name + 3, &end, 10);
  if (length == 0 || strlen(end) <= length || end[length] != 'E') return "";
  return std::string(end, length);
}

template <class Type> const Type *at(const std::vector<char> &file, size_t offset) {
  return (const Type *)(file.data() + offset);
}
} // namespace

// Which kernel has which part of the section, from the symbols of this library; "" has what belongs to none alone.
static std::map<std::string, std::vector<std::pair<char *, char *>>> &owned() {
  static std::map<std::string, std::vector<std::pair<char *, char *>>> all;
  return all;
}

void SharedMemory::read_symbols() {
  static bool done = false;
  if (done) return;
  done = true;
  Dl_info info;
  FILE *stream = dladdr(anchor, &info) ? fopen(info.dli_fname, "rb") : nullptr;
  if (!stream) {
    owned()[""].push_back({__start_cuemu_shared, __stop_cuemu_shared});
    return;
  }
  std::vector<char> file;
  char part[1 << 16];
  for (size_t got; (got = fread(part, 1, sizeof part, stream)) > 0;) file.insert(file.end(), part, part + got);
  fclose(stream);
  const Elf64_Ehdr *header = at<Elf64_Ehdr>(file, 0);
  const Elf64_Shdr *sections = at<Elf64_Shdr>(file, header->e_shoff);
  bool any = false;
  for (int i = 0; i < header->e_shnum; i++) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const Elf64_Sym *symbols = at<Elf64_Sym>(file, sections[i].sh_offset);
    const char *names = at<char>(file, sections[sections[i].sh_link].sh_offset);
    for (size_t symbol = 0; symbol < sections[i].sh_size / sizeof(Elf64_Sym); symbol++) {
      char *from = (char *)info.dli_fbase + symbols[symbol].st_value, *to = from + symbols[symbol].st_size;
      if (ELF64_ST_TYPE(symbols[symbol].st_info) != STT_OBJECT) continue;
      if (from < __start_cuemu_shared || to > __stop_cuemu_shared || from == anchor) continue;
      owned()[owner(names + symbols[symbol].st_name)].push_back({from, to});
      any = true;
    }
  }
  // A library without symbols: every kernel may have all of it.
  if (!any) owned()[""].push_back({__start_cuemu_shared, __stop_cuemu_shared});
}

const std::vector<SharedMemory::Range> &SharedMemory::variables(const std::string &kernel) {
  static std::map<std::string, std::vector<Range>> all;
  auto found = all.find(kernel);
  if (found != all.end()) return found->second;
  read_symbols();
  std::vector<Range> &ranges = all[kernel];
  for (const std::string &name : {std::string(), kernel})
    if (owned().count(name))
      for (auto [from, to] : owned()[name]) ranges.push_back({from, to});
  std::sort(ranges.begin(), ranges.end(), [](const Range &a, const Range &b) { return a.from < b.from; });
  return ranges;
}

size_t SharedMemory::declared(const std::string &kernel) {
  size_t bytes = 0;
  for (const Range &range : variables(kernel)) bytes += (range.to - range.from + 15) / 16 * 16;
  return bytes;
}

CUEMU_NOSAN void SharedMemory::open(const std::string &kernel, size_t dynamic) {
  if (!mapping) {
    void *memory = mmap(nullptr, MOST + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect((char *)memory + MOST, GUARD, PROT_NONE)) {
      fprintf(stderr, "emulator: no memory for shared memory\n");
      abort();
    }
    mapping = (char *)memory;
  }
  length = (dynamic + 15) / 16 * 16;
  start = mapping + MOST - length;
  ranges = variables(kernel);
  fences.clear();
  for (size_t i = 0; i < ranges.size(); i++) {
    char *before = i ? ranges[i - 1].to : __start_cuemu_shared;
    char *after = i + 1 < ranges.size() ? ranges[i + 1].from : __stop_cuemu_shared;
    Range sides[] = {{std::max(before, ranges[i].from - FENCE), ranges[i].from},
                     {ranges[i].to, std::min(after, ranges[i].to + FENCE)}};
    for (const Range &side : sides)
      if (side.from < side.to) fences.push_back({side, std::vector<char>(side.from, side.to)});
  }
}

CUEMU_NOSAN void SharedMemory::poison() {
  for (const Range &range : ranges) memset(range.from, 0xff, range.to - range.from);
  memset(start, 0xff, length);
}

CUEMU_NOSAN bool SharedMemory::is_intact() const {
  for (const Fence &fence : fences)
    if (memcmp(fence.range.from, fence.held.data(), fence.held.size())) return false;
  return true;
}

} // namespace cuemu
