#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "archon/io/hdf5.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

/// A prompt and what a model wrote behind it.
struct Rollout {
  int64_t group = 0;   ///< index of the prompt in its file
  int64_t sample = 0;  ///< which of the prompt's rollouts
  int64_t prompt_length = 0;
  std::vector<int64_t> tokens;   ///< prompt and completion
  std::vector<float> log_probs;  ///< of the completion's tokens, as they were drawn

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t completion_length() const { return length() - prompt_length; }
};

/// The rollouts of all data-parallel ranks, by group and sample, on world rank 0; nothing
/// elsewhere. The tp ranks of a data-parallel rank have the same. Collective over the mesh.
std::vector<Rollout> collect_rollouts(const std::vector<Rollout>& mine, const Mesh& mesh);

/// Writes them as a token dataset: /input_ids, /cu_seqlens, /loss_mask (1 = completion),
/// /logprobs, /group_ids and /prompt_lengths.
void write_rollouts(h5::File& file, const std::vector<Rollout>& rollouts);

}  // namespace archon
