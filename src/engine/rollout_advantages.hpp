#pragma once

#include <string>
#include <vector>

#include "archon/engine/objective.hpp"
#include "archon/io/hdf5.hpp"

/// Advantages and returns of a file of rollouts; world rank 0 alone, O(tokens) of memory.
namespace archon {

/// Token-aligned datasets that they are computed from, beside the rewards.
std::vector<std::string> advantage_inputs(const LossOptions& loss);

/// What a file says of its rollouts, apart from values of tokens. InputError, by name, for what
/// allows no advantages: a file that is no token dataset, rewards and groups, and what else of
/// advantage_inputs the file has.
Rollouts read_rollouts(const std::string& data, int64_t vocab_size, const Objective& objective);

/// Adds /advantages (and /returns where there are values) to `prepared`, whose datasets come before
/// those of `data`.
void write_advantages(Rollouts rollouts, const std::string& data, h5::File& prepared,
                      const Objective& objective);

}  // namespace archon
