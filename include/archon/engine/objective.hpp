#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "archon/data/batch.hpp"
#include "archon/engine/options.hpp"
#include "archon/loss/log_probs.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/model.hpp"

namespace archon {

/// The loss of one micro-batch as one rank sees it.
struct MicroBatchLoss {
  at::Tensor loss;   ///< float64 [1], to run backward on
  double share = 0;  ///< its value, such that the sum over the shard group is the loss of the
                     ///< micro-batches of all dp ranks
};

/// What is minimised: the sum over targets of a per-token loss, times `scale` (1 / targets of the
/// global batch).
struct Objective {
  LossKind kind = LossKind::sft;
  double value_eps_clip = 0.0;
  PolicyLossOptions policy;
  bool proximal_is_behaviour = false;

  /// Token-aligned datasets it needs.
  std::vector<std::string> fields() const;
  /// InputError when the model is not one for this loss.
  void validate(const DecoderConfig& config) const;

  /// Forward pass and loss of a whole-stream batch. Collective over the model-parallel group.
  MicroBatchLoss operator()(Model& model, const Mesh& mesh, const PackedBatch& batch, double scale,
                            ActivationObserver* observer = nullptr) const;
};

/// What a training run minimises.
Objective make_objective(const TrainOptions& options);

/// This cp rank's part of a packed stream, as the model takes it.
ModelInput model_input(const PackedBatch& slice);

/// The model's head, for log-probabilities.
VocabParallelHead vocab_parallel_head(const Model& model, const Mesh& mesh,
                                      double temperature = 1.0);

/// The score head's value at every token of this rank's share: float32 [T/(cp·tp)].
at::Tensor critic_values(const Model& model, const at::Tensor& hidden);

}  // namespace archon
