#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "archon/loss/log_probs.hpp"

/// Drawing the next token from a vocabulary-parallel head.
namespace archon {

struct SamplingOptions {
  bool greedy = false;  ///< the likeliest token; of equals the one with the lowest id
  int64_t top_k = 0;    ///< only the k likeliest tokens; 0 = all
  double top_p = 1.0;   ///< of these, only the fewest likeliest whose probabilities reach p of the
                        ///< sum of theirs (nucleus; Holtzman et al. 2020, arXiv:1904.09751)
  uint64_t seed = 0;
};

/// Where a token is to stand. With the seed it decides all random numbers of the draw, so that a
/// draw does not depend on what else is drawn, where and when.
struct Draw {
  int64_t group = 0;     ///< prompt
  int64_t sample = 0;    ///< which of the prompt's rollouts
  int64_t position = 0;  ///< of the token in its sequence
};

struct DrawnTokens {
  at::Tensor tokens;     ///< int64 [rows]
  at::Tensor log_probs;  ///< float32 [rows], under softmax(logits / temperature), whole: top_k and
                         ///< top_p restrict what is drawn, not what is written down
};

/// Draws one token for each row of hidden [rows, hidden_size], which is the same on all ranks of
/// head.tp; so is the result. Collective over head.tp.
///
/// The draw is the largest of logit / temperature + Gumbel noise (Maddison et al. 2014,
/// arXiv:1411.0030), which is softmax(logits / temperature) exactly, and which rounding of the
/// logits changes only where two tokens come out equal up to that rounding.
DrawnTokens draw_tokens(const at::Tensor& hidden, const VocabParallelHead& head,
                        const std::vector<Draw>& draws, const SamplingOptions& options);

}  // namespace archon
