#include "runtime.h"

#include <sys/mman.h>

#if defined(__SANITIZE_THREAD__)
extern "C" {
void *__tsan_get_current_fiber();
void *__tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void *, unsigned);
void __tsan_acquire(void *);
void __tsan_release(void *);
}
#endif
#if defined(__SANITIZE_ADDRESS__)
extern "C" {
void __sanitizer_start_switch_fiber(void **, const void *, size_t);
void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
}
#endif

#ifdef CUEMU_FAST_SWITCH
extern "C" void cuemu_switch(void **save, void *load);
asm(R"(
  .text
  .globl cuemu_switch
  .hidden cuemu_switch
  .type cuemu_switch, @function
cuemu_switch:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
  .size cuemu_switch, . - cuemu_switch
)");
#endif

namespace cuemu {

namespace {
const size_t GUARD = 4096;
#ifdef CUEMU_SANITIZED
const size_t SIZE = 256 << 10;
#else
const size_t SIZE = 64 << 10;
#endif
#if defined(__SANITIZE_ADDRESS__)
// Which stack was left for the one that runs.
Stack *left;
#endif
} // namespace

CUEMU_NOSAN void Stack::map() {
  void *memory = mmap(nullptr, GUARD + SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE)) {
    fprintf(stderr, "emulator: no memory for the stack of a thread\n");
    abort();
  }
  mapping = (char *)memory;
  bottom = mapping + GUARD;
  size = SIZE;
#if defined(__SANITIZE_THREAD__)
  fiber = __tsan_create_fiber(0);
#endif
}

CUEMU_NOSAN void Stack::prepare(void (*function)()) {
#ifdef CUEMU_FAST_SWITCH
  // As a call leaves it: the address to return to is sixteen bytes below a multiple of sixteen, six registers below that.
  void **top = (void **)(mapping + GUARD + SIZE);
  top[-1] = nullptr;
  top[-2] = (void *)function;
  for (int saved = 3; saved <= 8; saved++) top[-saved] = nullptr;
  pointer = top - 8;
#else
  getcontext(&context);
  context.uc_stack.ss_sp = mapping + GUARD;
  context.uc_stack.ss_size = SIZE;
  context.uc_link = nullptr;
  makecontext(&context, function, 0);
#endif
  fake = nullptr;
}

CUEMU_NOSAN void Stack::adopt() {
#if defined(__SANITIZE_THREAD__)
  fiber = __tsan_get_current_fiber();
#endif
}

CUEMU_NOSAN void Stack::entered() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &left->bottom, &left->size);
#endif
}

CUEMU_NOSAN void Stack::switch_to(Stack &to, bool for_the_last_time) {
#ifdef CUEMU_FAST_SWITCH
  (void)for_the_last_time;
  cuemu_switch(&pointer, to.pointer);
#else
#if defined(__SANITIZE_ADDRESS__)
  left = this;
  __sanitizer_start_switch_fiber(for_the_last_time ? nullptr : &fake, to.bottom, to.size);
#endif
#if defined(__SANITIZE_THREAD__)
  // Without an order: only barriers order threads.
  __tsan_switch_to_fiber(to.fiber, 1);
#endif
  (void)for_the_last_time;
  swapcontext(&context, &to.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &left->bottom, &left->size);
#endif
#endif
}

bool Stack::has_overflowed_at(const void *address) const {
  return mapping && address >= mapping && address < mapping + GUARD;
}

CUEMU_NOSAN void happens_before(void *object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(object);
#else
  (void)object;
#endif
}

CUEMU_NOSAN void happens_after(void *object) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(object);
#else
  (void)object;
#endif
}

} // namespace cuemu
