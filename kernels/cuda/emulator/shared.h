// Shared memory: the variables of each kernel, and what a launch asks for beside them.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace cuemu {

class SharedMemory {
public:
  // For the launches of a kernel that follow, with `dynamic` bytes beside its variables.
  void open(const std::string &kernel, size_t dynamic);
  // All bytes one: NaN in every type.
  void poison();
  // Whether what lies around the kernel's variables is as it was.
  bool is_intact() const;
  void *dynamic() const { return start; }
  // Bytes of a kernel's variables.
  static size_t declared(const std::string &kernel);

private:
  struct Range {
    char *from, *to;
  };
  struct Fence {
    Range range;
    std::vector<char> held;
  };
  static const std::vector<Range> &variables(const std::string &kernel);
  static void read_symbols();

  std::vector<Range> ranges;
  std::vector<Fence> fences;
  char *mapping = nullptr, *start = nullptr;
  size_t length = 0;
};

} // namespace cuemu
