#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace archon {

/// What a viewer shows beside a span's name; left out where not set.
struct TraceDetail {
  const char* axis = nullptr;
  int64_t bytes = -1;   ///< sent by this rank
  int64_t number = -1;  ///< of a layer, a micro-batch, a step
};

/// Something that took place. Texts live as long as the process.
struct TraceEvent {
  const char* name;
  TraceDetail detail;
  int64_t begin, end;  ///< nanoseconds of the steady clock
  int thread;          ///< 0 = the one that started the trace; others in order of appearance
  bool async;          ///< begun and completed apart; may overlap others of its thread
};

/// This process's trace, kept in memory. Spans that begin between start and stop are recorded, from
/// any thread; otherwise a span costs one branch.
namespace trace {

extern std::atomic<bool> recording;

/// Call from the main thread.
void start();
void stop();
inline bool on() { return recording.load(std::memory_order_relaxed); }
/// Nanoseconds of the steady clock.
int64_t now();
void add(const char* name, const TraceDetail& detail, int64_t begin, bool async);
/// Everything recorded so far; nothing of it is kept.
std::vector<TraceEvent> take();

}  // namespace trace

/// A span on its thread's track, for its lifetime: `const TraceSpan span("forward");`. Spans of one
/// thread nest.
class TraceSpan {
 public:
  explicit TraceSpan(const char* name, const TraceDetail& detail = {})
      : name_(name), detail_(detail), begin_(trace::on() ? trace::now() : 0) {}
  ~TraceSpan() {
    if (begin_ != 0) trace::add(name_, detail_, begin_, /*async=*/false);
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  const char* name_;
  TraceDetail detail_;
  int64_t begin_;
};

/// Something that begins now and is completed elsewhere, perhaps by another thread: an asynchronous
/// transfer. Copies stand for the same; call `complete` on one of them, once.
class TraceOperation {
 public:
  explicit TraceOperation(const char* name, const TraceDetail& detail = {})
      : name_(name), detail_(detail), begin_(trace::on() ? trace::now() : 0) {}
  void complete() const {
    if (begin_ != 0) trace::add(name_, detail_, begin_, /*async=*/true);
  }

 private:
  const char* name_;
  TraceDetail detail_;
  int64_t begin_;
};

}  // namespace archon
