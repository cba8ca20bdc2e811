#include "archon/comm/work.hpp"

#include <exception>

#include "archon/base/log.hpp"

namespace archon {

Work& Work::operator=(Work&& other) {
  if (this != &other) {
    wait();
    finish_ = std::exchange(other.finish_, nullptr);
  }
  return *this;
}

Work::~Work() {
  // While unwinding, peers may never answer; the job is about to be ended.
  if (!finish_ || std::uncaught_exceptions() > 0) return;
  try {
    wait();
  } catch (const std::exception& error) {
    log::error("a dropped operation failed: {}", error.what());
  }
}

void Work::wait() {
  if (auto finish = std::exchange(finish_, nullptr)) finish();
}

}  // namespace archon
