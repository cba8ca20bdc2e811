#include "archon/base/activity.hpp"

#include <chrono>
#include <utility>

namespace archon {
namespace {

using Clock = std::chrono::steady_clock;

struct Account {
  ActivitySeconds seconds{};
  Activity current = Activity::compute;
  Clock::time_point since = Clock::now();

  void settle() {
    const auto now = Clock::now();
    seconds[static_cast<std::size_t>(current)] +=
        std::chrono::duration<double>(now - std::exchange(since, now)).count();
  }
};

Account& account() {
  thread_local Account mine;
  return mine;
}

Activity change_to(Activity next) {
  Account& mine = account();
  mine.settle();
  return std::exchange(mine.current, next);
}

}  // namespace

ActivitySeconds activity_seconds() {
  account().settle();
  return account().seconds;
}

ActivityScope::ActivityScope(Activity activity, const char* name, const TraceDetail& detail)
    : span_(name, detail), outer_(change_to(activity)) {}

ActivityScope::~ActivityScope() { change_to(outer_); }

}  // namespace archon
