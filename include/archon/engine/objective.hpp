#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "archon/data/batch.hpp"
#include "archon/engine/options.hpp"
#include "archon/loss/log_probs.hpp"
#include "archon/loss/statistics.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/model.hpp"

namespace archon {

/// The loss of one micro-batch as one rank sees it.
struct MicroBatchLoss {
  at::Tensor loss;   ///< float64 [1], to run backward on
  double share = 0;  ///< its value, such that the sum over the shard group is the loss of the
                     ///< micro-batches of all dp ranks
};

/// What is minimised: a mean over the global batch, of tokens, sequences or pairs, as a sum of what
/// its micro-batches add.
class Objective {
 public:
  /// InputError when options do not go together.
  explicit Objective(LossOptions options = {});

  const LossOptions options;

  /// Token-aligned datasets it needs.
  std::vector<std::string> fields() const;
  /// Neighbouring sequences of the file that belong together.
  int64_t unit() const { return options.kind == LossKind::dpo ? 2 : 1; }
  /// InputError when the model is not one for this loss.
  void validate(const DecoderConfig& config) const;
  /// Whether the mean is over targets.
  bool is_token_mean() const;
  /// How much a batch has of what the mean is over: targets, sequences with a target, or pairs.
  double size(const PackedBatch& batch) const;

  /// Forward pass and loss of a whole-stream batch, times `scale` (1 / size of the global batch).
  /// `statistics` (may be null) receives what people watch: of this rank's tokens, or of the whole
  /// stream on every rank of a replica; either way they are right when reduced over the mesh.
  /// Collective over the model-parallel group.
  MicroBatchLoss operator()(Model& model, const Mesh& mesh, const PackedBatch& batch, double scale,
                            ActivationObserver* observer = nullptr,
                            LossStatistics* statistics = nullptr) const;
};

/// This cp rank's part of a packed stream, as the model takes it.
ModelInput model_input(const PackedBatch& slice);

/// The model's head, for log-probabilities.
VocabParallelHead vocab_parallel_head(const Model& model, const Mesh& mesh,
                                      double temperature = 1.0);

/// The score head's value at every token of this rank's share: float32 [T/(cp·tp)].
at::Tensor critic_values(const Model& model, const at::Tensor& hidden);

}  // namespace archon
