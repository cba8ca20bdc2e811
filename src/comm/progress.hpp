#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

namespace archon {

class Transfer;

/// Moves asynchronous transfers on while the main thread computes. MPI libraries commonly make
/// progress only inside calls, so without it a transfer that was started would wait for its wait.
///
/// One thread per process: asleep when nothing is under way, else polling with pauses in between,
/// so that it never takes a core from computation. It needs MPI_THREAD_MULTIPLE; without, transfers
/// are completed by their wait alone.
class Progress {
 public:
  /// What tools such as top call its thread.
  static constexpr const char* kThreadName = "archon-progress";

  static Progress& instance();

  /// Allows the thread; MpiEnvironment says so once MPI offers the thread level.
  void enable();
  /// Ends the thread. Call before MPI_Finalize.
  void stop();

  void add(Transfer& transfer);
  /// Afterwards the thread does not touch `transfer`. Harmless when it was never added.
  void remove(Transfer& transfer);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::set<Transfer*> under_way_;
  bool enabled_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace archon
