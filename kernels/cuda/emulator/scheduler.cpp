#include "emulator.h"

#include <sys/mman.h>

#if defined(__SANITIZE_THREAD__)
extern "C" {
void *__tsan_get_current_fiber();
void *__tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void *, unsigned);
void __tsan_acquire(void *);
void __tsan_release(void *);
}
#else
static void *__tsan_get_current_fiber() { return nullptr; }
static void *__tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_switch_to_fiber(void *, unsigned) {}
static void __tsan_acquire(void *) {}
static void __tsan_release(void *) {}
#endif

// A switch of a few instructions where it is known how; two system calls elsewhere and under sanitizers.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define FAST_SWITCH 1
extern "C" void cuemu_switch(void **from, void *to);
asm(".text\n.globl cuemu_switch\n.hidden cuemu_switch\n.type cuemu_switch,@function\ncuemu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size cuemu_switch,.-cuemu_switch\n");
#endif

// The section must exist even if no kernel has shared memory.
__attribute__((section("cuemu_shared"), used)) static char anchor[16];
extern char __start_cuemu_shared[], __stop_cuemu_shared[];

namespace cuemu {

Fiber *cur;
uint3 block_index;
dim3 block_size, grid_size;

namespace {
const size_t STACK = 64 << 10;
ucontext_t scheduler;
void *scheduler_pointer, *scheduler_fiber;
Entry entry;
void **parameters;
std::vector<char> dynamic;
unsigned long blocks;
// What the thread sanitizer learns from barriers and warp operations; two, as one may be entered while the other is left.
char barrier_object[2], warp_object[2][32], start_object, end_object;
// Kept between launches; the deque never moves them.
std::vector<Fiber *> fibers;
} // namespace

std::map<std::string, Kernel> &kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

CUEMU_NOSAN void *dynamic_shared() { return (void *)(((uintptr_t)dynamic.data() + 127) / 128 * 128); }
unsigned long block_number() { return blocks; }

static std::string &order_name() {
  static std::string name = getenv("EMULATOR_ORDER") ? getenv("EMULATOR_ORDER") : "fwd";
  return name;
}

void set_order(const char *order) { order_name() = order; }

Schedule schedule() {
  const std::string &order = order_name();
  return order == "fwd"         ? Schedule::FORWARD
         : order == "rev"       ? Schedule::REVERSE
         : order == "warps"     ? Schedule::WARPS
         : order == "warps-rev" ? Schedule::WARPS_REVERSE
                                : Schedule::RANDOM;
}

CUEMU_NOSAN static void leave() {
#ifdef FAST_SWITCH
  cuemu_switch(&cur->pointer, scheduler_pointer);
#else
  __tsan_switch_to_fiber(scheduler_fiber, 1);
  swapcontext(&cur->context, &scheduler);
#endif
}

CUEMU_NOSAN static void enter(Fiber *fiber) {
  cur = fiber;
#ifdef FAST_SWITCH
  cuemu_switch(&scheduler_pointer, fiber->pointer);
#else
  __tsan_switch_to_fiber(fiber->sanitizer, 1);
  swapcontext(&scheduler, &fiber->context);
#endif
}

CUEMU_NOSAN void yield_block(const char *file, int line) {
  cur->state = State::AT_BARRIER;
  cur->file = file;
  cur->line = line;
  char *object = &barrier_object[cur->barriers++ & 1];
  __tsan_release(object);
  leave();
  __tsan_acquire(object);
}

CUEMU_NOSAN void yield_warp(const char *file, int line, unsigned mask, WarpOperation operation, void *arg) {
  if (!(mask >> (cur->lin & 31) & 1)) {
    fprintf(stderr, "emulator: a lane is not in its own mask at %s:%d\n", file, line);
    abort();
  }
  cur->state = State::AT_WARP;
  cur->file = file;
  cur->line = line;
  cur->mask = mask;
  cur->operation = operation;
  cur->arg = arg;
  char *object = &warp_object[cur->operations++ & 1][cur->lin >> 5 & 31];
  __tsan_release(object);
  leave();
  __tsan_acquire(object);
}

CUEMU_NOSAN static void run() {
  __tsan_acquire(&start_object);
  entry(parameters);
  __tsan_release(&end_object);
  cur->state = State::DONE;
  leave();
}

CUEMU_NOSAN static void fail(const char *why, unsigned threads) {
  fprintf(stderr, "emulator: %s in block (%u,%u,%u):", why, block_index.x, block_index.y, block_index.z);
  for (unsigned i = 0; i < threads; i += threads > 64 ? 16 : 4) {
    const Fiber &fiber = *fibers[i];
    const char *state = fiber.state == State::DONE    ? "gone"
                        : fiber.state == State::READY ? "ready"
                        : fiber.state == State::AT_WARP ? "warp"
                                                        : "barrier";
    fprintf(stderr, " t%u=%s", i, state);
    if (fiber.state == State::AT_WARP || fiber.state == State::AT_BARRIER) fprintf(stderr, ":%d", fiber.line);
  }
  fprintf(stderr, "\n");
  abort();
}

CUEMU_NOSAN static Fiber *new_fiber(unsigned lin) {
  Fiber *fiber = new Fiber;
  fiber->stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fiber->stack == MAP_FAILED) {
    fprintf(stderr, "emulator: no memory for a thread's stack\n");
    abort();
  }
  fiber->sanitizer = __tsan_create_fiber(0);
  fiber->lin = lin;
  return fiber;
}

CUEMU_NOSAN static void prepare(Fiber &fiber) {
#ifdef FAST_SWITCH
  void **top = (void **)((char *)fiber.stack + STACK);
  *--top = nullptr;
  *--top = (void *)run;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run, 0);
#endif
  fiber.state = State::READY;
  fiber.barriers = fiber.operations = 0;
}

// Performs the operations of a warp that all lanes of their masks have reached; whether there was one.
CUEMU_NOSAN static bool release_warp(unsigned first, unsigned threads) {
  bool any = false;
    for (unsigned lin = first; lin < threads && lin < first + 32; lin++) {
      Fiber &fiber = *fibers[lin];
      if (fiber.state != State::AT_WARP) continue;
      Fiber *lanes[32] = {};
      bool all = true;
      for (unsigned lane = 0; lane < 32 && all; lane++) {
        if (!(fiber.mask >> lane & 1)) continue;
        if (first + lane >= threads) fail("a mask names a lane that the block lacks", threads);
        Fiber &other = *fibers[first + lane];
        if (other.state == State::DONE) fail("a mask names a lane that is gone", threads);
        all = other.state == State::AT_WARP && other.line == fiber.line && other.operation == fiber.operation &&
              other.mask == fiber.mask;
        lanes[lane] = &other;
      }
      if (!all) continue;
      fiber.operation(lanes, fiber.mask);
      for (Fiber *lane : lanes)
        if (lane) lane->state = State::READY;
      any = true;
    }
  return any;
}

CUEMU_NOSAN static bool step(unsigned lin, unsigned &done) {
  if (fibers[lin]->state != State::READY) return false;
  enter(fibers[lin]);
  done += fibers[lin]->state == State::DONE;
  return true;
}

// A warp as far as it gets.
CUEMU_NOSAN static bool run_warp(unsigned first, unsigned threads, unsigned &done) {
  bool any = false;
  for (bool more = true; more; any |= more) {
    more = false;
    for (unsigned lin = first; lin < threads && lin < first + 32; lin++) more |= step(lin, done);
    more |= release_warp(first, threads);
  }
  return any;
}

// Opens the barrier if the whole block is at it.
CUEMU_NOSAN static bool release_barrier(unsigned threads) {
  for (unsigned i = 0; i < threads; i++)
    if (fibers[i]->state != State::AT_BARRIER) return false;
  for (unsigned i = 0; i < threads; i++) {
    if (fibers[i]->line != fibers[0]->line) fail("__syncthreads at different places", threads);
    fibers[i]->state = State::READY;
  }
  return true;
}

CUEMU_NOSAN void launch(Entry kernel, dim3 grid, dim3 block, size_t shared, void **arguments) {
  const unsigned threads = block.x * block.y * block.z;
  entry = kernel;
  parameters = arguments;
  block_size = block;
  grid_size = grid;
  dynamic.resize(std::max(dynamic.size(), shared + 256));
  while (fibers.size() < threads) fibers.push_back(new_fiber(fibers.size()));
  std::vector<unsigned> order(threads);
  const Schedule kind = schedule();
  for (unsigned i = 0; i < threads; i++) {
    fibers[i]->thread = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    order[i] = kind == Schedule::REVERSE ? threads - 1 - i : i;
  }
  uint64_t seed = kind == Schedule::RANDOM ? strtoull(order_name().c_str(), nullptr, 10) * 2 + 1 : 0;
  auto random = [&] {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
  };
  scheduler_fiber = __tsan_get_current_fiber();
  const unsigned long total = (unsigned long)grid.x * grid.y * grid.z;
  for (unsigned long number = 0; number < total; number++) {
    blocks++;
    // Blocks come in no order either.
    const bool backwards = kind == Schedule::REVERSE || kind == Schedule::WARPS_REVERSE;
    const unsigned long at = backwards ? total - 1 - number : number;
    block_index = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
    memset(__start_cuemu_shared, 0xff, __stop_cuemu_shared - __start_cuemu_shared);
    memset(dynamic.data(), 0xff, shared + 256);
    for (unsigned i = 0; i < threads; i++) prepare(*fibers[i]);
    __tsan_release(&start_object);
    for (unsigned done = 0; done < threads;) {
      if (seed)
        for (unsigned i = threads - 1; i; i--) std::swap(order[i], order[random() % (i + 1)]);
      bool progress = false;
      if (kind == Schedule::WARPS || kind == Schedule::WARPS_REVERSE) {
        const unsigned warps = (threads + 31) / 32;
        for (unsigned warp = 0; warp < warps; warp++)
          progress |= run_warp((kind == Schedule::WARPS ? warp : warps - 1 - warp) * 32, threads, done);
      } else {
        for (unsigned lin : order) progress |= step(lin, done);
        for (unsigned first = 0; first < threads; first += 32) progress |= release_warp(first, threads);
      }
      if (done == threads) break;
      progress |= release_barrier(threads);
      if (!progress) fail("a barrier or warp operation that not all threads reach", threads);
    }
    __tsan_acquire(&end_object);
  }
  cur = nullptr;
}

CUEMU_NOSAN void shuffle_lanes(Fiber **lanes, unsigned mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!lanes[lane]) continue;
    Shuffle *one = (Shuffle *)lanes[lane]->arg;
    // What an absent lane gives is anything: all ones.
    one->out = mask >> one->source & 1 ? ((Shuffle *)lanes[one->source]->arg)->value : ~0ull;
  }
}

CUEMU_NOSAN void ballot_lanes(Fiber **lanes, unsigned) {
  unsigned votes = 0;
  for (int lane = 0; lane < 32; lane++)
    if (lanes[lane]) votes |= ((Ballot *)lanes[lane]->arg)->predicate << lane;
  for (int lane = 0; lane < 32; lane++)
    if (lanes[lane]) ((Ballot *)lanes[lane]->arg)->out = votes;
}

} // namespace cuemu
