#pragma once

#include <iosfwd>
#include <span>
#include <string>
#include <vector>

#include "archon/model/reward.hpp"

namespace archon {

/// Who says what an answer is worth: a plugin's function or a program. One of the two is given.
struct RewardSource {
  std::string function = {};     ///< name of a registered reward, or a plugin's file (NAME.so)
  std::string command = {};      ///< for /bin/sh -c; docs/reinforcement-learning.md has its lines
  double silence_timeout = 600;  ///< seconds without a sign of the program; 0 = no limit
};

/// One finite reward for each rollout, in their order, in this process alone. InputError when the
/// function is not known, cannot judge a rollout, or when an answer is no finite float32;
/// RuntimeFailure when the program fails or falls silent.
std::vector<float> compute_rewards(std::span<const RolloutView> rollouts,
                                   const RewardSource& source);

/// Computes the rewards of a rollout file, writes a copy of it with /rewards to `output` (which may
/// be the file itself, replaced when the copy is whole), and one JSON object to `json_out`.
void run_reward(const std::string& file, const RewardSource& source, const std::string& output,
                std::ostream& json_out);

}  // namespace archon
