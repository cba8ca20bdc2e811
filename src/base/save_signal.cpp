#include "archon/base/save_signal.hpp"

#include <atomic>
#include <csignal>

namespace archon {
namespace {

std::atomic<bool> asked{false};
static_assert(std::atomic<bool>::is_always_lock_free);
extern "C" void on_sigusr1(int) { asked = true; }

}  // namespace

void catch_save_signal() {
  struct sigaction action = {};
  action.sa_handler = on_sigusr1;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
}

bool take_save_signal() { return asked.exchange(false); }

}  // namespace archon
