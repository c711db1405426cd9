// Runs grids: blocks one after another, the threads of a block in the order that the schedule says.
#include "runtime.h"
#include "shared.h"

namespace cuemu {

Fiber *cur;
uint3 block_index;
dim3 block_size, grid_size;

namespace {

// Where the threads of the block are, a bit a lane, a word a warp.
struct Block {
  unsigned threads, warps;
  unsigned present[32], ready[32], waiting[32], arrived[32], gone[32];
  unsigned at_barrier, finished;
  // Of the barrier that threads have arrived at.
  const char *file;
  int line;
};

Block block;
Stack scheduler;
// A plain array, as the fibers read it where nothing orders them: a container's functions are instrumented whoever calls
// them, and the thread sanitizer would report those reads beside a later launch that adds fibers.
Fiber *fibers[1024];
unsigned fiber_count;
SharedMemory shared_memory;
Entry entry;
void **parameters;
const char *running = "";
unsigned long blocks;
// The threads that run before the scheduler does, and how many of them have.
unsigned turns[1024], turn, turn_count;
uint64_t seed;
// What the thread sanitizer learns from barriers and warp operations; two, as one may be entered while the other is left.
char barrier_object[2], warp_object[2][32], start_object, end_object;

std::string &order_name() {
  static std::string name = getenv("EMULATOR_ORDER") ? getenv("EMULATOR_ORDER") : "fwd";
  return name;
}

CUEMU_NOSAN void leave(bool for_the_last_time) {
  Fiber *self = cur;
  if (turn < turn_count) {
    cur = fibers[turns[turn++]];
    self->stack.switch_to(cur->stack, for_the_last_time);
  } else {
    self->stack.switch_to(scheduler, for_the_last_time);
  }
}

CUEMU_NOSAN void take_turns() {
  if (!turn_count) return;
  turn = 1;
  cur = fibers[turns[0]];
  scheduler.switch_to(cur->stack, false);
  turn = turn_count = 0;
}

CUEMU_NOSAN void run() {
  cur->stack.entered();
  happens_after(&start_object);
  entry(parameters);
  happens_before(&end_object);
  const unsigned warp = cur->lin / 32, bit = 1u << cur->lin % 32;
  block.ready[warp] &= ~bit;
  block.gone[warp] |= bit;
  block.finished++;
  leave(true);
}

const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

std::string place(unsigned lin) {
  const unsigned warp = lin / 32, bit = 1u << lin % 32;
  if (block.gone[warp] & bit) return "gone";
  if (block.ready[warp] & bit) return "ready";
  const char *kind = block.arrived[warp] & bit ? "at the barrier " : "at the warp operation ";
  return kind + std::string(base_name(fibers[lin]->file)) + ":" + std::to_string(fibers[lin]->line);
}

CUEMU_NOSAN void fail(const char *why) {
  fprintf(stderr, "emulator: kernel %s, block (%u,%u,%u): %s;", running, block_index.x, block_index.y, block_index.z, why);
  for (unsigned from = 0, groups = 0; from < block.threads && groups < 12; groups++) {
    unsigned to = from + 1;
    while (to < block.threads && place(to) == place(from)) to++;
    fprintf(stderr, " threads %u-%u %s", from, to - 1, place(from).c_str());
    from = to;
  }
  fprintf(stderr, "\n");
  abort();
}

CUEMU_NOSAN uint64_t random_number() {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  return seed ^= seed << 17;
}

// Performs the operations of a warp that all lanes of their masks have reached.
CUEMU_NOSAN void meet(unsigned warp) {
  for (unsigned left = block.waiting[warp]; left;) {
    const unsigned lane = (unsigned)__builtin_ctz(left);
    const Fiber &first = *fibers[warp * 32 + lane];
    const unsigned mask = first.mask;
    left &= ~(1u << lane);
    if (mask & ~block.present[warp]) fail("a mask names a lane that the block lacks");
    if (mask & block.gone[warp]) fail("a mask names a lane that is gone");
    if (mask & ~block.waiting[warp]) continue;
    Fiber *lanes[32] = {};
    bool together = true;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
      Fiber *other = fibers[warp * 32 + (unsigned)__builtin_ctz(rest)];
      together &= other->line == first.line && other->operation == first.operation && other->mask == mask;
      lanes[__builtin_ctz(rest)] = other;
    }
    if (!together) continue;
    first.operation(lanes, mask);
    block.waiting[warp] &= ~mask;
    block.ready[warp] |= mask;
    left &= ~mask;
  }
}

// A warp as far as it gets.
CUEMU_NOSAN bool run_warp(unsigned warp) {
  if (!block.ready[warp]) return false;
  while (block.ready[warp]) {
    for (unsigned rest = block.ready[warp]; rest; rest &= rest - 1)
      turns[turn_count++] = warp * 32 + (unsigned)__builtin_ctz(rest);
    take_turns();
    meet(warp);
  }
  return true;
}

// Every thread up to its next barrier or warp operation.
CUEMU_NOSAN bool run_phase(Schedule kind) {
  for (unsigned warp = 0; warp < block.warps; warp++)
    for (unsigned rest = block.ready[warp]; rest; rest &= rest - 1)
      turns[turn_count++] = warp * 32 + (unsigned)__builtin_ctz(rest);
  if (!turn_count) return false;
  if (kind == Schedule::REVERSE) std::reverse(turns, turns + turn_count);
  if (kind == Schedule::RANDOM)
    for (unsigned i = turn_count - 1; i; i--) std::swap(turns[i], turns[random_number() % (i + 1)]);
  take_turns();
  for (unsigned warp = 0; warp < block.warps; warp++) meet(warp);
  return true;
}

CUEMU_NOSAN void run_block(Schedule kind) {
  shared_memory.poison();
  for (unsigned warp = 0; warp < block.warps; warp++) {
    block.ready[warp] = block.present[warp];
    block.waiting[warp] = block.arrived[warp] = block.gone[warp] = 0;
  }
  block.at_barrier = block.finished = 0;
  for (unsigned i = 0; i < block.threads; i++) {
    fibers[i]->stack.prepare(run);
    fibers[i]->barriers = fibers[i]->operations = 0;
  }
  happens_before(&start_object);
  while (block.finished < block.threads) {
    bool progress = false;
    if (kind == Schedule::WARPS || kind == Schedule::WARPS_REVERSE)
      for (unsigned i = 0; i < block.warps; i++) progress |= run_warp(kind == Schedule::WARPS ? i : block.warps - 1 - i);
    else
      progress = run_phase(kind);
    if (block.at_barrier == block.threads) {
      for (unsigned warp = 0; warp < block.warps; warp++) {
        block.ready[warp] = block.present[warp];
        block.arrived[warp] = 0;
      }
      block.at_barrier = 0;
      progress = true;
    }
    if (!progress) fail("a barrier or warp operation that not all threads reach");
  }
  happens_after(&end_object);
  if (!shared_memory.is_intact()) fail("a write beside the shared memory of the kernel");
}

} // namespace

std::map<std::string, Kernel> &kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

CUEMU_NOSAN void *dynamic_shared() { return shared_memory.dynamic(); }
const char *running_kernel() { return running; }
unsigned long block_number() { return blocks; }
void set_order(const char *order) { order_name() = order; }

Schedule schedule() {
  const std::string &order = order_name();
  return order == "fwd"         ? Schedule::FORWARD
         : order == "rev"       ? Schedule::REVERSE
         : order == "warps"     ? Schedule::WARPS
         : order == "warps-rev" ? Schedule::WARPS_REVERSE
                                : Schedule::RANDOM;
}

CUEMU_NOSAN void yield_block(const char *file, int line) {
  const unsigned warp = cur->lin / 32, bit = 1u << cur->lin % 32;
  cur->file = file;
  cur->line = line;
  block.ready[warp] &= ~bit;
  block.arrived[warp] |= bit;
  if (block.at_barrier++ == 0) {
    block.file = file;
    block.line = line;
  } else if (block.line != line || (block.file != file && strcmp(block.file, file))) {
    fail("__syncthreads at different places");
  }
  char *object = &barrier_object[cur->barriers++ & 1];
  happens_before(object);
  leave(false);
  happens_after(object);
}

CUEMU_NOSAN void yield_warp(const char *file, int line, unsigned mask, WarpOperation operation, void *arg) {
  const unsigned warp = cur->lin / 32, bit = 1u << cur->lin % 32;
  cur->file = file;
  cur->line = line;
  cur->mask = mask;
  cur->operation = operation;
  cur->arg = arg;
  block.ready[warp] &= ~bit;
  block.waiting[warp] |= bit;
  if (!(mask & bit)) fail("a lane is not in its own mask");
  char *object = &warp_object[cur->operations++ & 1][warp];
  happens_before(object);
  leave(false);
  happens_after(object);
}

CUEMU_NOSAN void launch(const std::string &name, const Kernel &kernel, dim3 grid, dim3 size, size_t shared,
                        void **arguments) {
  running = name.c_str();
  entry = kernel.entry;
  parameters = arguments;
  block_size = size;
  grid_size = grid;
  block.threads = size.x * size.y * size.z;
  block.warps = (block.threads + 31) / 32;
  for (unsigned warp = 0; warp < block.warps; warp++)
    block.present[warp] = block.threads >= warp * 32 + 32 ? ~0u : (1u << block.threads % 32) - 1;
  for (; fiber_count < block.threads; fiber_count++) {
    fibers[fiber_count] = new Fiber;
    fibers[fiber_count]->stack.map();
    fibers[fiber_count]->lin = fiber_count;
  }
  for (unsigned i = 0; i < block.threads; i++)
    fibers[i]->thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
  shared_memory.open(name, shared);
  scheduler.adopt();
  const Schedule kind = schedule();
  if (kind == Schedule::RANDOM) seed = strtoull(order_name().c_str(), nullptr, 10) * 2 + 1;
  // Blocks come in no order either.
  const bool backwards = kind == Schedule::REVERSE || kind == Schedule::WARPS_REVERSE;
  const unsigned long total = (unsigned long)grid.x * grid.y * grid.z;
  for (unsigned long number = 0; number < total; number++) {
    blocks++;
    const unsigned long at = backwards ? total - 1 - number : number;
    block_index = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
    run_block(kind);
  }
  cur = nullptr;
}

} // namespace cuemu
