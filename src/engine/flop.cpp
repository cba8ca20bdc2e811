#include "archon/engine/flop.hpp"

namespace archon {

TrainingFlop::TrainingFlop(const DecoderConfig& config) {
  const int64_t width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  const int64_t attention = config.hidden_size * (2 * width + 2 * kv_width);
  const int64_t mlp = 3 * config.hidden_size * config.intermediate_size;
  const int64_t head = config.hidden_size * (config.critic ? 1 : config.vocab_size);
  per_token = 6.0 * static_cast<double>(config.num_layers * (attention + mlp) + head);
  per_token_squared = 6.0 * static_cast<double>(config.num_layers * width);
}

double TrainingFlop::of_sequence(int64_t length) const {
  const auto n = static_cast<double>(length);
  return per_token * n + per_token_squared * n * n;
}

}  // namespace archon
