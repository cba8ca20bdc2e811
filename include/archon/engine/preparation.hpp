#pragma once

#include <optional>
#include <string>
#include <vector>

#include "archon/checkpoint/token_outputs.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/objective.hpp"
#include "archon/engine/options.hpp"

namespace archon {

/// Makes a file of rollouts ready for a loss: computes what it lacks, with the weights of this
/// moment, into a file beside the run.
///
/// prox_logprobs: the trained model's. ref_logprobs: those of --reference. old_values: the trained
/// critic's, or those of --critic. advantages, returns: from rewards, in float64 on world rank 0,
/// in the order of the file, so they are the same on any mesh.
class Preparation {
 public:
  /// All arguments must outlive it.
  Preparation(const TrainOptions& options, const LoadedModel& trained, const Objective& objective,
              const Mesh& mesh);

  /// The fields of the loss that have to be computed for this file. InputError where the KL
  /// divergence is to be taken off rewards and the file has what comes of them.
  std::vector<std::string> lacking(const std::string& data) const;
  /// Computes `fields`, those lacking. `step`: steps done before. InputError for what cannot be
  /// computed, by name, and for rewards and groups that allow no advantages. Collective over the
  /// mesh.
  void run(const std::string& data, const std::vector<std::string>& fields,
           const std::string& prepared, int64_t step);
  /// InputError where a prepared file is not that of this step, or lacks what the loss needs now.
  void check(const std::string& data, const std::string& prepared, int64_t step) const;

 private:
  void check_others(const std::vector<std::string>& fields) const;
  void compute(const std::string& data, const std::string& field, TokenOutputs& outputs);
  const LoadedModel& other(std::optional<LoadedModel>& model, const std::string& folder);

  const TrainOptions& options_;
  const LoadedModel& trained_;
  const Objective& objective_;
  const Mesh& mesh_;
  std::optional<LoadedModel> reference_, critic_;  // loaded when first needed, and kept
};

}  // namespace archon
