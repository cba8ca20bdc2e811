// What SIGUSR1 and SIGTERM do to a run, sent to the launcher, to one rank, and to a program alone;
// and what many saves leave in a process: nothing.
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>

#include "run_control.hpp"

using namespace archon;
using namespace archon::test;
namespace fs = std::filesystem;

namespace {

constexpr int kEndless = 1'000'000;

struct Run : Inputs {
  Run() { write_varied_sequences(*this); }
  std::vector<std::string> command(int64_t steps, std::vector<std::string> more = {}) const {
    more.insert(more.end(), {"--batch-sequences", "8", "--steps", std::to_string(steps)});
    return train(more);
  }
  pid_t launcher() const { return find_process(ARCHON_TEST_MPIEXEC, output); }
  pid_t alone() const { return find_process(archon_program(), output); }
};

/// Whether the process has a handler for the signal.
bool catches(pid_t pid, int signal) {
  std::istringstream status(read_bytes(fmt::format("/proc/{}/status", pid)));
  const std::string entry = "SigCgt:";
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(entry))
      return (std::stoull(line.substr(entry.size()), nullptr, 16) >> (signal - 1) & 1) != 0;
  return false;
}

using Victim = std::function<pid_t(const Run&)>;

/// After its first steps the victim gets SIGUSR1; when there is a checkpoint, `last`.
ProcessResult save_then(const Run& run, int ranks, const Victim& victim, int last) {
  return act_during(
      ranks, run.command(kEndless), [&] { return has_lines(run); },
      [&] {
        BOOST_REQUIRE(::kill(victim(run), SIGUSR1) == 0);
        for (int i = 0; i < 2000 && latest_step(run) == 0; ++i)
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        BOOST_CHECK(latest_step(run) > 0);
        BOOST_REQUIRE(::kill(victim(run), last) == 0);
      });
}

/// What the peak of memory grows by in the middle one, by size, of five equal parts of the run's
/// steps after `first`: a leak grows in all of them, while a heap that settles does so in a few
/// jumps.
int64_t usual_growth(const std::vector<Json>& rows, int64_t first, int64_t last) {
  constexpr int64_t kParts = 5;
  const auto peak = [&](int64_t part) {
    const int64_t step = first + (last - first) * part / kParts;
    return rows[static_cast<std::size_t>(step - 1)].at("peak_memory_bytes").get<int64_t>();
  };
  std::array<int64_t, kParts> growth{};
  for (int64_t part = 0; part < kParts; ++part)
    growth[static_cast<std::size_t>(part)] = peak(part + 1) - peak(part);
  std::ranges::sort(growth);
  return growth[kParts / 2];
}

/// SIGTERM ended the run in good order: it can go on from its last step.
void check_orderly(const Run& run, int ranks, const ProcessResult& result) {
  const int64_t saved = latest_step(run);
  BOOST_CHECK_EQUAL(result.exit_code, 128 + SIGTERM);
  CHECK_CONTAINS(result.err, fmt::format("ended by SIGTERM after step {}", saved));
  BOOST_CHECK_EQUAL(saved, static_cast<int64_t>(metrics(run).size()));
  BOOST_CHECK_EQUAL(saved_steps(run).size(), 2u);
  BOOST_CHECK_LT(result.seconds, 30);
  const auto resumed = run_on(std::max(1, ranks), run.command(saved + 1));
  BOOST_CHECK_EQUAL(resumed.exit_code, 0);
  CHECK_CONTAINS(resumed.err, fmt::format("goes on after step {} of {}", saved, saved + 1));
  CHECK_CONTAINS(run_archon({"inspect", "--verify", step_folder(run, saved)}).out, "sound");
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_program_alone_saves_and_ends) {
  const Run run;
  check_orderly(run, 0, save_then(run, 0, &Run::alone, SIGTERM));
}

BOOST_AUTO_TEST_CASE(one_rank_that_is_asked_is_enough) {
  const Run run;
  const auto last_rank = [](const Run& run) { return find_rank(run.output, 1); };
  check_orderly(run, 2, save_then(run, 2, last_rank, SIGTERM));
}

// The launcher ends what is left after a second; the checkpoint of so small a model takes less.
BOOST_AUTO_TEST_CASE(the_launcher_forwards_what_it_gets) {
  const Run run;
  const auto result = save_then(run, 2, &Run::launcher, SIGTERM);
  BOOST_CHECK_NE(result.exit_code, 0);
  CHECK_CONTAINS(result.err, "checkpoint of step ");
  BOOST_CHECK_EQUAL(saved_steps(run).size(), 2u);
  check_runs(2, run.command(latest_step(run) + 1));
}

BOOST_AUTO_TEST_CASE(sigusr1_before_the_first_step_does_not_kill) {
  const Run run;
  bool sent = false;
  const auto result = act_during(
      0, run.command(3), [&] { return catches(run.alone(), SIGUSR1); },
      [&] { sent = !has_lines(run) && ::kill(run.alone(), SIGUSR1) == 0; });
  BOOST_CHECK(sent);
  BOOST_CHECK_EQUAL(result.exit_code, 0);
  BOOST_CHECK((saved_steps(run) == std::vector<int64_t>{1}));
}

BOOST_AUTO_TEST_CASE(the_clock_saves) {
  const Run run;
  check_runs(2, run.command(200, {"--save-minutes", "0.002"}));
  const auto steps = saved_steps(run);
  BOOST_CHECK_GT(steps.size(), 1u);
  BOOST_CHECK_EQUAL(steps.back(), 200);
}

// Descriptors, threads and memory after many saves are those after a few.
BOOST_AUTO_TEST_CASE(saving_leaves_nothing_in_the_process) {
  constexpr int64_t kSteps = 500;
  for (const char* async : {"off", "on"}) {
    const Run run;
    std::map<bool, std::size_t> descriptors, threads;  // largest, by half of the run
    const auto look = [&] {
      const pid_t pid = run.alone();
      const bool second_half = latest_step(run) > kSteps / 2;
      const auto entries = [&](const char* what) {
        std::error_code error;
        std::size_t found = 0;
        for (fs::directory_iterator at(fmt::format("/proc/{}/{}", pid, what), error), end;
             !error && at != end; at.increment(error))
          ++found;
        return found;
      };
      if (pid == 0 || latest_step(run) < 50) return false;
      descriptors[second_half] = std::max(descriptors[second_half], entries("fd"));
      threads[second_half] = std::max(threads[second_half], entries("task"));
      return false;
    };
    const auto result = act_during(
        0, run.command(kSteps, {"--save-every", "5", "--keep", "2", "--checkpoint-async", async}),
        look, [] {});
    BOOST_REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    BOOST_REQUIRE_MESSAGE(threads[true] > 0 && threads[false] > 0, "nothing was seen");
    // A file or a thread of a save under way may be seen in one half only.
    BOOST_CHECK_LE(descriptors[true], descriptors[false] + 2);
    BOOST_CHECK_LE(threads[true], threads[false] + 1);
    const int64_t grown = usual_growth(metrics(run), kSteps / 2, kSteps);
    BOOST_TEST_MESSAGE("async " << async << ": " << threads[true] << " threads, "
                                << descriptors[true] << " descriptors, usually " << grown
                                << " bytes more in a tenth of the run");
#ifndef ARCHON_SANITIZE  // whose quarantine keeps what was freed
    BOOST_CHECK_LT(grown, kSteps / 10 * 1024);
#endif
  }
}
