#include "progress.hpp"

#include <pthread.h>

#include <chrono>

#include "transfer.hpp"

namespace archon {
namespace {

// Short beside any transfer worth overlapping, long beside a poll.
constexpr auto kPause = std::chrono::microseconds(100);

}  // namespace

Progress& Progress::instance() {
  // Never destroyed: a process that ends without finalizing MPI may still have the thread.
  static auto* const progress = new Progress;
  return *progress;
}

void Progress::enable() { enabled_ = true; }

void Progress::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    enabled_ = false;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Progress::add(Transfer& transfer) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  under_way_.insert(&transfer);
  wake_.notify_one();
}

void Progress::remove(Transfer& transfer) {
  const std::lock_guard lock(mutex_);
  under_way_.erase(&transfer);
}

void Progress::run() {
  pthread_setname_np(pthread_self(), kThreadName);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    std::erase_if(under_way_, [](Transfer* transfer) { return transfer->poll(); });
    if (under_way_.empty()) {
      wake_.wait(lock, [this] { return stopping_ || !under_way_.empty(); });
    } else {
      lock.unlock();
      std::this_thread::sleep_for(kPause);
      lock.lock();
    }
  }
}

}  // namespace archon
