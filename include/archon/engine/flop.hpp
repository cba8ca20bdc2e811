#pragma once

#include <cstdint>

#include "archon/model/config.hpp"

namespace archon {

/// Floating-point operations of training on one sequence of n tokens, forward and backward: 6 per
/// token for each parameter of a matrix product (the head included, the embedding's lookup not),
/// and 6·layers·heads·head_dim·n² for causal attention. What is recomputed is not counted twice.
struct TrainingFlop {
  double per_token = 0;
  double per_token_squared = 0;

  explicit TrainingFlop(const DecoderConfig& config);
  double of_sequence(int64_t length) const;
};

}  // namespace archon
