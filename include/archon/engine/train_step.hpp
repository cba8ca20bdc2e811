#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "archon/checkpoint/recorder.hpp"
#include "archon/engine/batcher.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/objective.hpp"

namespace archon {

/// What one optimizer step did.
struct StepResult {
  double loss = 0;       ///< mean over the global batch
  double grad_norm = 0;  ///< before clipping
  int64_t tokens = 0;    ///< of the global batch, padding not counted
  int64_t targets = 0;
  bool stepped = false;       ///< false: no targets, or a norm that is not finite
  LossStatistics statistics;  ///< what the loss makes people watch; to be reduced over the mesh
};

/// Makes the optimizer of TrainOptions over a model's parameters; --no-decay patterns are matched
/// against HuggingFace names.
std::unique_ptr<Optimizer> make_optimizer(const TrainOptions& options, Model& model,
                                          const StateDictAdapter& adapter);

/// What the optimizer's tensors are parts of, cut like them and in their order: of each parameter
/// what this rank owns of `tensor_of` it, its master or gradient.
std::vector<at::Tensor> owned_parts(const Model& model,
                                    const std::function<at::Tensor(const Parameter&)>& tensor_of);

/// One training step on `sequences`: forward and backward of every micro-batch, gradients summed
/// over the mesh, clipped by the global norm, one optimizer step. `recorder` may be null.
/// Collective over the mesh.
StepResult train_step(const TrainOptions& options, const Objective& objective,
                      const LoadedModel& loaded, const Mesh& mesh, const Batcher& batcher,
                      Optimizer& optimizer, const std::vector<int64_t>& sequences, double lr,
                      GoldenRecorder* recorder);

}  // namespace archon
