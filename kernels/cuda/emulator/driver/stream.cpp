// Streams, events, and graphs captured from them.
#include "driver.h"

#include <chrono>
#include <list>

namespace driver {

// An operation of a graph, and how many of each stream's go before it.
struct Node {
  Operation run;
  Stream *stream;
  std::map<Stream *, unsigned long> after;
};

struct Graph {
  std::vector<Node> nodes;
  // Streams that take part while it is captured.
  std::vector<Stream *> members;
  bool spoilt = false;
};

// What a stream had been given when it was recorded.
struct Event {
  Stream *stream = nullptr;
  unsigned long number = 0;
  Graph *capture = nullptr;
  // What goes before it in a captured graph.
  std::map<Stream *, unsigned long> seen;
  std::chrono::steady_clock::time_point time;
};

namespace streams {

namespace {
std::list<Stream> all;
Stream default_stream;
Late late_now;
bool late_set;
size_t skipped;

bool is_late(const Stream *stream) {
  if (!late_set) {
    const char *named = getenv("EMULATOR_STREAMS");
    const std::string name = named ? named : "";
    set_late(name == "late" ? Late::ALL : name == "first-late" ? Late::FIRST : name == "others-late" ? Late::OTHERS : Late::NONE);
  }
  const bool first = !all.empty() && stream == &all.front();
  return late_now == Late::ALL || late_now == (first ? Late::FIRST : Late::OTHERS);
}
} // namespace

void set_late(Late late) {
  late_now = late;
  late_set = true;
}

void skip_wait(size_t number) { skipped = number ? counters().event_waits + number : 0; }

// Counts a wait for an event; whether it is the one to leave out.
static bool is_skipped() { return ++counters().event_waits == skipped; }

Stream *of(void *handle) {
  // 1 and 2 are the names of default streams.
  if ((uintptr_t)handle <= 2) return &default_stream;
  for (Stream &stream : all)
    if (&stream == handle) return &stream;
  refuse(INVALID_HANDLE, "a stream that is not there");
  return nullptr;
}

int run_through(Stream *stream, unsigned long number) {
  int failed = SUCCESS;
  while (stream->completed < number && stream->first < stream->queue.size()) {
    Operation operation = std::move(stream->queue[stream->first++]);
    stream->completed++;
    const int code = operation();
    if (!failed) failed = code;
  }
  if (stream->first == stream->queue.size()) {
    stream->queue.clear();
    stream->first = 0;
  }
  return failed;
}

int run_all() {
  int failed = run_through(&default_stream, default_stream.issued);
  for (Stream &stream : all) {
    const int code = run_through(&stream, stream.issued);
    if (!failed) failed = code;
  }
  return failed;
}

int submit(Stream *stream, Operation operation) {
  if (stream->capture) {
    if (stream->capture->spoilt) return CAPTURE_INVALIDATED;
    stream->capture->nodes.push_back({std::move(operation), stream, stream->seen});
    stream->captured++;
    return SUCCESS;
  }
  if (stream == &default_stream && is_any_capturing())
    return forbid("the default stream is used while a stream captures", CAPTURE_IMPLICIT);
  stream->queue.push_back(std::move(operation));
  stream->issued++;
  return is_late(stream) ? (int)SUCCESS : run_through(stream, stream->issued);
}

int forbid(const char *why, int code) {
  for (Stream &stream : all)
    if (stream.capture) stream.capture->spoilt = true;
  return refuse(code, why);
}

// Runs nodes as early as those before them allow, those of late streams only when others wait for them or at the end.
static int run_graph(const Graph &graph) {
  std::map<Stream *, std::vector<const Node *>> nodes;
  std::map<Stream *, unsigned long> done;
  for (const Node &node : graph.nodes) nodes[node.stream].push_back(&node);
  const std::function<int(Stream *, unsigned long)> run = [&](Stream *stream, unsigned long count) {
    while (done[stream] < count) {
      const Node *node = nodes[stream][done[stream]];
      for (const auto &[other, before] : node->after)
        if (const int failed = other == stream ? (int)SUCCESS : run(other, before)) return failed;
      if (const int failed = node->run()) return failed;
      done[stream]++;
    }
    return (int)SUCCESS;
  };
  for (const bool late : {false, true})
    for (Stream *stream : graph.members)
      if (is_late(stream) == late)
        if (const int failed = run(stream, nodes[stream].size())) return failed;
  return SUCCESS;
}

bool is_any_capturing() {
  return std::any_of(all.begin(), all.end(), [](const Stream &stream) { return stream.capture != nullptr; });
}

} // namespace streams
} // namespace driver

using namespace driver;

static int wait_for(Stream *stream, unsigned long number) {
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return streams::forbid("somebody waits for a stream that captures");
  counters().waits++;
  return streams::run_through(stream, number);
}

API cuStreamCreate(void **handle, unsigned) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  streams::all.emplace_back();
  *handle = &streams::all.back();
  return SUCCESS;
}
API cuStreamCreateWithPriority(void **handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }

API cuStreamDestroy_v2(void *handle) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  if (!stream || stream == streams::of(nullptr)) return INVALID_HANDLE;
  const int failed = streams::run_through(stream, stream->issued);
  streams::all.remove_if([&](const Stream &other) { return &other == stream; });
  return failed;
}

API cuStreamSynchronize(void *handle) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  return stream ? wait_for(stream, stream->issued) : (int)INVALID_HANDLE;
}

API cuStreamQuery(void *handle) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  return !stream ? INVALID_HANDLE : stream->completed < stream->issued ? NOT_READY : SUCCESS;
}

API cuCtxSynchronize() {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  if (streams::is_any_capturing()) return streams::forbid("somebody waits for the device while a stream captures");
  counters().waits++;
  return streams::run_all();
}

API cuLaunchHostFunc(void *handle, void (*function)(void *), void *data) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  return streams::submit(stream, [=] {
    function(data);
    return (int)SUCCESS;
  });
}

API cuEventCreate(Event **event, unsigned) {
  *event = new Event;
  return SUCCESS;
}

API cuEventDestroy_v2(Event *event) {
  delete event;
  return SUCCESS;
}

API cuEventRecord(Event *event, void *handle) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  event->stream = stream;
  event->number = stream->issued;
  event->capture = stream->capture;
  event->seen = stream->seen;
  event->seen[stream] = stream->captured;
  event->time = std::chrono::steady_clock::now();
  return SUCCESS;
}

API cuEventQuery(Event *event) {
  Guard guard(lock());
  return event->stream && event->stream->completed < event->number ? NOT_READY : SUCCESS;
}

API cuEventSynchronize(Event *event) {
  Guard guard(lock());
  if (event->capture) return streams::forbid("somebody waits for an event of a captured graph", CAPTURED_EVENT);
  if (streams::is_skipped()) return SUCCESS;
  return event->stream ? wait_for(event->stream, event->number) : (int)SUCCESS;
}

API cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
  Guard guard(lock());
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return SUCCESS;
}

// Has a stream capture into a graph.
static void enter(Stream *stream, Graph *graph) {
  stream->capture = graph;
  stream->captured = 0;
  stream->seen.clear();
  graph->members.push_back(stream);
}

API cuStreamWaitEvent(void *handle, Event *event, unsigned) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  if (event->capture) {
    const bool live = std::any_of(streams::all.begin(), streams::all.end(),
                                  [&](const Stream &one) { return one.capture == event->capture; });
    if (!live || (stream->capture && stream->capture != event->capture))
      return streams::forbid("a stream waits for an event of another graph", CAPTURED_EVENT);
    if (streams::is_skipped()) return SUCCESS;
    // The stream joins the graph.
    if (!stream->capture) enter(stream, event->capture);
    for (const auto &[other, count] : event->seen) stream->seen[other] = std::max(stream->seen[other], count);
    return SUCCESS;
  }
  if (stream->capture)
    return streams::forbid("a stream that captures waits for an event from before", CAPTURE_ISOLATION);
  if (!event->stream || event->stream == stream) return SUCCESS;
  if (streams::is_skipped()) return SUCCESS;
  Stream *other = event->stream;
  const unsigned long number = event->number;
  return streams::submit(stream, [=] { return streams::run_through(other, number); });
}

API cuStreamBeginCapture_v2(void *handle, int) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  if (stream == streams::of(nullptr) || stream->capture)
    return refuse(CAPTURE_UNSUPPORTED, "the default stream captures, or one that does already");
  enter(stream, new Graph);
  stream->began = true;
  return SUCCESS;
}

API cuStreamIsCapturing(void *handle, int *status) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  *status = stream->capture != nullptr;
  return SUCCESS;
}

API cuStreamEndCapture(void *handle, Graph **graph) {
  Guard guard(lock());
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  if (!stream->capture || !stream->began) return refuse(INVALID_VALUE, "capture did not begin on this stream");
  Graph *captured = stream->capture;
  const bool joined = std::all_of(captured->members.begin(), captured->members.end(), [&](Stream *member) {
    return member == stream || stream->seen[member] >= member->captured;
  });
  for (Stream *member : captured->members) member->capture = nullptr;
  stream->began = false;
  *graph = nullptr;
  if (captured->spoilt || !joined) {
    const int code = captured->spoilt ? CAPTURE_INVALIDATED : CAPTURE_UNJOINED;
    delete captured;
    return refuse(code, joined ? "a capture ends that was spoilt" : "a stream that joined a capture did not come back");
  }
  *graph = captured;
  return SUCCESS;
}

API cuGraphGetNodes(Graph *graph, void **, size_t *count) {
  *count = graph->nodes.size();
  return SUCCESS;
}

API cuGraphInstantiateWithFlags(Graph **made, Graph *graph, unsigned long long) {
  *made = new Graph(*graph);
  return SUCCESS;
}

API cuGraphLaunch(Graph *graph, void *handle) {
  Guard guard(lock());
  if (!has_context()) return INVALID_CONTEXT;
  Stream *stream = streams::of(handle);
  if (!stream) return INVALID_HANDLE;
  counters().graph_launches++;
  return streams::submit(stream, [graph] { return streams::run_graph(*graph); });
}

API cuGraphUpload(Graph *, void *) { return SUCCESS; }

API cuGraphDestroy(Graph *graph) {
  delete graph;
  return SUCCESS;
}

API cuGraphExecDestroy(Graph *graph) {
  Guard guard(lock());
  const int failed = streams::run_all();
  delete graph;
  return failed;
}
