#include "archon/comm/watchdog.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "archon/base/open_line.hpp"

namespace archon {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPoll = std::chrono::milliseconds(100);
constexpr auto kGraceBeforeExit = std::chrono::milliseconds(800);
constexpr int kExitFailed = 3;

// What the main thread is doing; written by it, read by the watchdog.
struct Standing {
  std::atomic<const char*> operation{nullptr};
  std::atomic<const char*> axis{nullptr};
  std::atomic<int64_t> number{0};
  std::atomic<Clock::rep> since{0};
  std::atomic<bool> inside{false};
  std::atomic<const char*> stage{nullptr};
  std::atomic<const char*> unit{nullptr};
};
Standing standing;

double seconds_since(Clock::rep ticks) {
  return std::chrono::duration<double>(Clock::now().time_since_epoch() - Clock::duration(ticks))
      .count();
}

/// ", in the backward pass of layers.3"
std::string describe_stage() {
  const char* const stage = standing.stage.load();
  if (stage == nullptr) return "";
  const char* const unit = standing.unit.load();
  return unit == nullptr ? fmt::format(", in the {}", stage)
                         : fmt::format(", in the {} of {}", stage, unit);
}

std::string describe_standing() {
  const char* operation = standing.operation.load();
  if (operation == nullptr) return "before its first collective";
  const auto text = fmt::format("{} over {} (number {})", operation, standing.axis.load(),
                                standing.number.load());
  const double seconds = seconds_since(standing.since.load());
  return standing.inside.load()
             ? fmt::format("inside {}, waiting for {:.1f} s", text, seconds)
             : fmt::format("outside any collective for {:.1f} s, after {}", seconds, text);
}

std::atomic<int> own_rank{0};

void say(const std::string& what) {
  end_open_line();
  const auto line = fmt::format("archon[{}]: {}: {}{}\n", own_rank.load(), what,
                                describe_standing(), describe_stage());
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
}

// A handler serves the process whichever thread the signal reaches; MPI has threads of its own,
// which a blocked signal would find unblocked.
std::atomic<bool> asked_to_end{false};
static_assert(std::atomic<bool>::is_always_lock_free);
extern "C" void on_sigterm(int) { asked_to_end = true; }

// Never destroyed: groups of static life may unwatch after everything else.
struct WatchedGroups {
  std::mutex mutex;
  std::vector<Watched*> groups;
};
WatchedGroups& watched_groups() {
  static auto* const watched = new WatchedGroups;
  return *watched;
}

/// The first fault of what is watched; "" when there is none.
std::string watched_fault(std::chrono::duration<double> timeout) {
  WatchedGroups& watched = watched_groups();
  const std::lock_guard lock(watched.mutex);
  for (Watched* const group : watched.groups) {
    group->attend();
    if (std::string fault = group->fault(timeout); !fault.empty()) return fault;
  }
  return "";
}

std::atomic<bool> end_is_orderly{false};
std::atomic<bool> end_was_told{false};

void tell_end() {
  if (standing.operation.load() != nullptr && !end_was_told.exchange(true))
    say("ended by SIGTERM");
}

}  // namespace

struct Watchdog::Thread {
  std::atomic<bool> stop{false};
  std::thread thread;
  struct sigaction before = {};

  /// Ranks time out at slightly different moments; each gets to speak, and to ask this one, before
  /// the first exits.
  [[noreturn]] static void end_process() {
    WatchedGroups& watched = watched_groups();
    const auto end = Clock::now() + kGraceBeforeExit;
    const std::lock_guard lock(watched.mutex);
    while (Clock::now() < end) {
      for (Watched* const group : watched.groups) group->attend();
      std::this_thread::sleep_for(kPoll / 5);
    }
    for (Watched* const group : watched.groups) group->end();
    std::_Exit(kExitFailed);
  }

  void run(std::chrono::duration<double> timeout) {
    while (!stop.load()) {
      std::this_thread::sleep_for(kPoll);
      if (asked_to_end.load()) {
        tell_end();
        if (!end_is_orderly.load()) {
          std::signal(SIGTERM, SIG_DFL);
          std::raise(SIGTERM);
        }
      }
      if (const std::string fault = watched_fault(timeout); !fault.empty()) {
        say("error: " + fault);
        end_process();
      }
      const bool late = timeout.count() > 0 && standing.inside.load() &&
                        seconds_since(standing.since.load()) > timeout.count();
      if (!late) continue;
      say(fmt::format("error: a collective waited longer than --collective-timeout {} s",
                      timeout.count()));
      end_process();
    }
  }
};

Watchdog::Watchdog(std::chrono::duration<double> timeout, int rank)
    : thread_(std::make_unique<Thread>()) {
  struct sigaction action = {};
  action.sa_handler = on_sigterm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, &thread_->before);
  own_rank = rank;
  thread_->thread = std::thread([thread = thread_.get(), timeout] { thread->run(timeout); });
}

Watchdog::~Watchdog() {
  thread_->stop = true;
  thread_->thread.join();
  sigaction(SIGTERM, &thread_->before, nullptr);
}

void watch(Watched& watched) {
  const std::lock_guard lock(watched_groups().mutex);
  watched_groups().groups.push_back(&watched);
}

void unwatch(Watched& watched) {
  const std::lock_guard lock(watched_groups().mutex);
  std::erase(watched_groups().groups, &watched);
}

void Watchdog::begin_work(int rank) {
  own_rank = rank;
  standing.operation = nullptr;
}

OrderlyEnd::OrderlyEnd() { end_is_orderly = true; }
OrderlyEnd::~OrderlyEnd() {
  if (begun_) asked_to_end = false;
  end_is_orderly = false;
}
bool OrderlyEnd::asked() const { return asked_to_end.load(); }
void OrderlyEnd::begin() {
  tell_end();
  asked_to_end = false;
  begun_ = true;
}

CollectiveScope::CollectiveScope(const char* operation, const char* axis, int64_t number) {
  standing.operation = operation;
  standing.axis = axis;
  standing.number = number;
  standing.since = Clock::now().time_since_epoch().count();
  standing.inside = true;
}

CollectiveScope::~CollectiveScope() {
  standing.since = Clock::now().time_since_epoch().count();
  standing.inside = false;
}

StageScope::StageScope(const char* stage, const char* unit)
    : outer_stage_(standing.stage.load()), outer_unit_(standing.unit.load()) {
  standing.unit = unit;
  standing.stage = stage;
}

StageScope::~StageScope() {
  standing.stage = outer_stage_;
  standing.unit = outer_unit_;
}

}  // namespace archon
