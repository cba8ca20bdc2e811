#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

namespace archon {

/// Watches the collectives of this process from a thread of its own.
///
/// When one waits longer than the time-out, or when the job is being ended by a signal (SIGTERM,
/// as launchers send it after another rank failed), it says on stderr where this rank stands:
/// operation, axis, running number on that axis, stage of the step. Then it ends the process (exit code 3, or the
/// signal), and with it the job. It needs neither MPI nor the main thread's progress.
class Watchdog {
 public:
  /// A time-out of zero means none. One per process at a time: it handles SIGTERM while it lives.
  Watchdog(std::chrono::duration<double> timeout, int rank);
  ~Watchdog();
  /// The job has come together: this rank is called so from here on, with no collective behind it.
  void begin_work(int rank);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  struct Thread;
  std::unique_ptr<Thread> thread_;
};

/// Collectives that go on without the main thread, which the watchdog looks after: its thread calls
/// these about ten times a second.
class Watched {
 public:
  virtual ~Watched() = default;
  /// What is wrong, so that the process has to end; "" when nothing is. A time-out of zero means
  /// none.
  virtual std::string fault(std::chrono::duration<double> timeout) = 0;
  /// Answers other ranks that look for the reason of a fault.
  virtual void attend() noexcept = 0;
  /// The process ends: gives up what is under way.
  virtual void end() noexcept = 0;
};
void watch(Watched& watched);
/// Afterwards the watchdog does not touch `watched`.
void unwatch(Watched& watched);

/// Lets the main thread end the process after SIGTERM, for its lifetime: the watchdog says where
/// this rank stands, and leaves it at that.
class OrderlyEnd {
 public:
  OrderlyEnd();
  ~OrderlyEnd();
  OrderlyEnd(const OrderlyEnd&) = delete;
  OrderlyEnd& operator=(const OrderlyEnd&) = delete;

  /// Whether SIGTERM came to this process.
  bool asked() const;
  /// The ranks have agreed to end, whoever was asked: says where this one stands unless the
  /// watchdog did, and takes the signal for answered, also where it reaches this rank later.
  void begin();

 private:
  bool begun_ = false;
};

/// Marks one collective as under way in this process, for its lifetime. The texts must outlive
/// the process's last collective.
class CollectiveScope {
 public:
  CollectiveScope(const char* operation, const char* axis, int64_t number);
  ~CollectiveScope();
  CollectiveScope(const CollectiveScope&) = delete;
  CollectiveScope& operator=(const CollectiveScope&) = delete;
};

/// Says what the process works on, for its lifetime: "backward pass" of "layers.3". Nests. The
/// texts must live as long as the process (intern).
class StageScope {
 public:
  explicit StageScope(const char* stage, const char* unit = nullptr);
  ~StageScope();
  StageScope(const StageScope&) = delete;
  StageScope& operator=(const StageScope&) = delete;

 private:
  const char *outer_stage_, *outer_unit_;
};

}  // namespace archon
