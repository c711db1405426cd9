// Stacks that take turns on one thread of the operating system.
#pragma once
#include <cstddef>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CUEMU_SANITIZED 1
#endif
// A switch of a few instructions where it is known how; two system calls elsewhere, and under sanitizers, which follow
// those.
#if defined(__x86_64__) && !defined(CUEMU_SANITIZED)
#define CUEMU_FAST_SWITCH 1
#endif

namespace cuemu {

// Where a stack stands while another one runs.
class Stack {
public:
  // The one that the caller is on.
  Stack() = default;
  Stack(const Stack &) = delete;
  // Maps a stack above a page that nobody may touch.
  void map();
  // Sets it to the start of `function`, which may not return but leaves for the last time.
  void prepare(void (*function)());
  // To be called first on a stack that was entered for the first time.
  void entered();
  // Goes on where `to` stands, until something switches back to `this`.
  void switch_to(Stack &to, bool for_the_last_time);
  // For the stack that the caller is on, before it first switches.
  void adopt();
  bool has_overflowed_at(const void *address) const;

private:
#ifdef CUEMU_FAST_SWITCH
  void *pointer = nullptr;
#else
  ucontext_t context;
#endif
  char *mapping = nullptr;
  // What the sanitizers know it by.
  void *fiber = nullptr, *fake = nullptr;
  const void *bottom = nullptr;
  size_t size = 0;
};

// What happens before and after a barrier, for the thread sanitizer.
void happens_before(void *object);
void happens_after(void *object);

} // namespace cuemu
