#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "archon/engine/options.hpp"
#include "archon/engine/rollouts.hpp"
#include "archon/loss/sampling.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/model.hpp"
#include "archon/parallel/matmul.hpp"

namespace archon {

/// Writes completions behind prompts on one data-parallel rank, whose tp ranks call alike: the
/// model's keys and values are cached, and rollouts come and go independently of one another
/// (continuous batching; Yu et al. 2022, Orca).
///
/// What a rollout becomes depends on its prompt, its place (group and sample) and the seed, not on
/// what else runs: up to rounding it is the same for every batch and mesh. Needs a mesh with cp = 1
/// and a model whose values stay gathered (ShardMode::none) and do not change; both must outlive
/// it.
class Generator {
 public:
  Generator(Model& model, const Mesh& mesh, const GenerateOptions& options,
            std::vector<int64_t> stop_tokens);

  /// Asks for options.group_size rollouts of a prompt of one token or more.
  void add_prompt(int64_t group, std::vector<int64_t> prompt);
  /// Rollouts asked for and not yet finished.
  int64_t unfinished() const { return unfinished_; }
  /// One pass of the model, so that its callers wait for each other no longer than that: prompts of
  /// waiting rollouts that there is room for, up to micro_batch_tokens (or one longer prompt); once
  /// all have joined, one token for every running rollout. Returns those that ended. Collective
  /// over tp.
  std::vector<Rollout> step();

 private:
  struct Prompt {
    int64_t group;
    std::vector<int64_t> tokens;
    int64_t samples = 0;                   // that have begun
    std::unique_ptr<KeyValueCache> cache;  // of all tokens but the last, once computed
  };
  struct Running {
    Rollout rollout;
    KeyValueCache cache;  // of all tokens but the last
    int64_t room;         // tokens it may come to hold; counted in reserved_
  };

  /// A prompt's place among the rollouts that are about to begin.
  struct Start {
    Prompt* prompt;
    int64_t sample;
  };

  int64_t room_for(const Prompt& prompt) const;
  std::vector<Start> admit();
  bool fill_caches(const std::vector<Start>& starts);
  DrawnTokens draw();
  bool ended(const Rollout& rollout) const;

  Model& model_;
  const Mesh& mesh_;
  const GenerateOptions& options_;
  SamplingOptions sampling_;
  std::vector<int64_t> stop_tokens_;
  PackedOperands weights_;
  std::deque<Prompt> waiting_;
  std::vector<Running> running_;
  int64_t reserved_ = 0;  // sum of the running rollouts' room
  int64_t unfinished_ = 0;
};

}  // namespace archon
