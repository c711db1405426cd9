// Copies and fills.
#include "driver.h"

using namespace driver;

namespace {

enum class Way { TO_DEVICE, TO_HOST, INSIDE };

int copy_now(Way way, void *to, const void *from, size_t length) {
  const bool valid = (way == Way::TO_DEVICE || memory::holds((Address)from, length)) &&
                     (way == Way::TO_HOST || memory::holds((Address)to, length));
  if (!valid)
    return refuse(INVALID_VALUE, "a copy outside of an allocation",
                  memory::describe((Address)(way == Way::TO_HOST ? from : to) + length) + ", its end");
  trace(way == Way::TO_DEVICE ? "copy to device" : way == Way::TO_HOST ? "copy to host" : "copy", "", length);
  if (way == Way::TO_DEVICE) counters().to_device += length;
  if (way == Way::TO_HOST) counters().to_host += length;
  memmove(to, from, length);
  return SUCCESS;
}

// As the real one with ordinary host memory: what goes to the device has been read when this returns, and what comes from
// it has arrived. Pinned memory is read and written whenever the stream comes to it.
int copy_in(Way way, void *to, const void *from, size_t length, void *handle) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  if (length == 0) return SUCCESS;
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  const bool pinned = way == Way::INSIDE || memory::is_pinned(way == Way::TO_HOST ? to : from, length);
  if (!pinned && stream->capture) return streams::forbid("a copy of host memory that is not pinned, in a captured graph");
  if (pinned) return streams::submit(stream, [=] { return copy_now(way, to, from, length); });
  counters().pageable++;
  if (way == Way::TO_DEVICE) {
    std::vector<char> staged((const char *)from, (const char *)from + length);
    return streams::submit(stream, [=] { return copy_now(way, to, staged.data(), length); });
  }
  counters().waits++;
  const int submitted = streams::submit(stream, [=] { return copy_now(way, to, from, length); });
  const int failed = streams::run_through(stream, stream->issued);
  return submitted ? submitted : failed;
}

int copy_and_wait(Way way, void *to, const void *from, size_t length) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  if (streams::is_any_capturing()) return streams::forbid("a copy that waits, while a stream captures");
  // Of the streams only the default one goes before it.
  if (const int failed = streams::run_through(streams::of(nullptr), streams::of(nullptr)->issued)) return failed;
  counters().waits++;
  return length ? copy_now(way, to, from, length) : SUCCESS;
}

template <class Type> int fill(Address to, Type value, size_t count, void *handle) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  if (to % sizeof(Type)) return refuse(INVALID_VALUE, "a fill of words from an address that is not theirs");
  return streams::submit(stream, [=] {
    if (!memory::holds(to, count * sizeof(Type)))
      return refuse(INVALID_VALUE, "a fill outside of an allocation", memory::describe(to + count * sizeof(Type)));
    std::fill_n((Type *)to, count, value);
    return (int)SUCCESS;
  });
}

} // namespace

API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t length, void *stream) {
  return copy_in(Way::TO_DEVICE, (void *)to, from, length, stream);
}
API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t length, void *stream) {
  return copy_in(Way::TO_HOST, to, (const void *)from, length, stream);
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t length, void *stream) {
  return copy_in(Way::INSIDE, (void *)to, (const void *)from, length, stream);
}
API cuMemcpyHtoD_v2(Address to, const void *from, size_t length) {
  return copy_and_wait(Way::TO_DEVICE, (void *)to, from, length);
}
API cuMemcpyDtoH_v2(void *to, Address from, size_t length) {
  return copy_and_wait(Way::TO_HOST, to, (const void *)from, length);
}
API cuMemcpyDtoD_v2(Address to, Address from, size_t length) {
  return copy_and_wait(Way::INSIDE, (void *)to, (const void *)from, length);
}
API cuMemsetD8Async(Address to, unsigned char value, size_t count, void *stream) { return fill(to, value, count, stream); }
API cuMemsetD16Async(Address to, unsigned short value, size_t count, void *stream) { return fill(to, value, count, stream); }
API cuMemsetD32Async(Address to, unsigned value, size_t count, void *stream) { return fill(to, value, count, stream); }
API cuMemsetD8_v2(Address to, unsigned char value, size_t count) { return fill(to, value, count, nullptr); }
API cuMemsetD32_v2(Address to, unsigned value, size_t count) { return fill(to, value, count, nullptr); }
