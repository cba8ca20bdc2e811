#pragma once

#include <signal.h>

#include <functional>
#include <future>

#include "inputs.hpp"

namespace archon::test {

constexpr int64_t kRunSequences = 24;

/// Sequences of many lengths and tokens: three steps of eight make an epoch.
inline void write_varied_sequences(const Inputs& inputs) {
  std::vector<int64_t> ids, offsets = {0};
  for (int64_t i = 0; i < kRunSequences; ++i) {
    for (int64_t t = 0; t < 9 + i % 7 * 3; ++t) ids.push_back((i * 31 + t * t * 7) % 256);
    offsets.push_back(static_cast<int64_t>(ids.size()));
  }
  inputs.write_data(at::tensor(ids).to(at::kInt), at::tensor(offsets));
}

/// The process that was started as `program` (the first word of its command) to work on `output`;
/// 0 if there is none.
inline pid_t find_process(const std::string& program, const std::string& output) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string words = read_bytes(entry.path().string() + "/cmdline");
    if (words.starts_with(program + '\0') && contains(words, '\0' + output + '\0'))
      return static_cast<pid_t>(std::stol(entry.path().filename().string()));
  }
  return 0;
}

/// Calls `act` while `program` runs, as soon as `ready` is true.
inline ProcessResult act_during(const std::function<ProcessResult()>& program,
                                const std::function<bool()>& ready,
                                const std::function<void()>& act) {
  auto run = std::async(std::launch::async, program);
  while (run.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready && !ready())
    continue;
  if (run.wait_for(std::chrono::seconds(0)) != std::future_status::ready) act();
  return run.get();
}

/// The same of archon, under mpiexec unless `ranks` is 0.
inline ProcessResult act_during(int ranks, const std::vector<std::string>& arguments,
                                const std::function<bool()>& ready,
                                const std::function<void()>& act) {
  return act_during(
      [&] { return ranks == 0 ? run_archon(arguments) : run_archon_ranks(ranks, arguments); },
      ready, act);
}

inline bool has_lines(const Inputs& inputs) {
  return contains(read_bytes(inputs.output + "/metrics.jsonl"), "\n");
}

inline std::string checkpoints_of(const Inputs& inputs) { return inputs.output + "/checkpoints"; }

inline std::string step_folder(const Inputs& inputs, int64_t step) {
  return fmt::format("{}/step-{:08}", checkpoints_of(inputs), step);
}

/// The step that `latest` names; 0 where there is none.
inline int64_t latest_step(const Inputs& inputs) {
  const std::string name = read_bytes(checkpoints_of(inputs) + "/latest");
  return name.starts_with("step-") ? std::stoll(name.substr(5)) : 0;
}

/// Steps that have a folder, in rising order.
inline std::vector<int64_t> saved_steps(const Inputs& inputs) {
  std::vector<int64_t> steps;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints_of(inputs), ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-")) steps.push_back(std::stoll(name.substr(5)));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

}  // namespace archon::test
