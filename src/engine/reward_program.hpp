#pragma once

#include <span>
#include <string>
#include <vector>

#include "archon/model/reward.hpp"

namespace archon {

/// Asks a program, started by /bin/sh -c, for rewards: a JSON object a line on its standard input,
/// a JSON number (or an object with "reward") a line on its standard output, in the same order.
/// Lines go both ways at once, so that it may answer each line, or read them all before it answers.
///
/// InputError when an answer is no finite float32, is missing, or is one too many; RuntimeFailure
/// when the program fails, or gives no sign (reads, answers or ends) for `silence_timeout` seconds
/// (0: no limit). Either way it is over when this returns.
std::vector<float> ask_reward_program(const std::string& command, double silence_timeout,
                                      std::span<const RolloutView> rollouts);

}  // namespace archon
