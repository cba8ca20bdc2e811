#include "archon/base/trace.hpp"

#include <chrono>
#include <mutex>
#include <utility>

namespace archon::trace {
namespace {

struct Buffer {
  std::mutex mutex;
  std::vector<TraceEvent> events;
};

Buffer& buffer() {
  // Never destroyed: another thread may still end a span while the process leaves.
  static auto* const instance = new Buffer;
  return *instance;
}

int this_thread() {
  static std::atomic<int> threads{0};
  thread_local const int number = threads++;
  return number;
}

}  // namespace

std::atomic<bool> recording{false};

void start() {
  this_thread();  // the first to ask is thread 0
  recording = true;
}

void stop() { recording = false; }

int64_t now() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

void add(const char* name, const TraceDetail& detail, int64_t begin, bool async) {
  const int64_t end = now();
  const int thread = this_thread();
  Buffer& all = buffer();
  const std::lock_guard lock(all.mutex);
  all.events.push_back({name, detail, begin, end, thread, async});
}

std::vector<TraceEvent> take() {
  Buffer& all = buffer();
  const std::lock_guard lock(all.mutex);
  return std::exchange(all.events, {});
}

}  // namespace archon::trace
