// A rank that is stuck in a collective, done with it in time, or being ended by a launcher, at once or
// in good order.
#include <unistd.h>

#include <csignal>
#include <string>
#include <thread>

#include "archon/comm/watchdog.hpp"

int main(int argc, char** argv) {
  using namespace std::chrono_literals;
  const std::string part = argc > 1 ? argv[1] : "";
  const archon::Watchdog watchdog(part == "term" ? 0s : 300ms, 5);
  {
    const archon::CollectiveScope scope("all_reduce", "tp", 17);
    if (part == "stuck") std::this_thread::sleep_for(1min);
  }
  if (part == "slow") std::this_thread::sleep_for(700ms);  // outside any collective: allowed
  if (part == "term") {
    ::kill(::getpid(), SIGTERM);
    std::this_thread::sleep_for(1min);
  }
  if (part == "orderly") {
    {
      archon::OrderlyEnd end;
      end.begin();  // another rank was asked
      ::kill(::getpid(), SIGTERM);
    }
    std::this_thread::sleep_for(500ms);
  }
  return 0;
}
