#pragma once

#include <ATen/ops/arange.h>
#include <ATen/ops/ones_like.h>
#include <fmt/format.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <map>
#include <optional>

#include "archon/checkpoint/checkpoint_writer.hpp"
#include "archon/engine/train_step.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"
#include "support/shared_folder.hpp"

namespace archon::test {

/// Model and optimizer of a run whose every element of masters and moments is a number of its own.
struct SavedRun {
  /// `model`: the name of a golden case, or a folder.
  SavedRun(const std::string& model, const MeshShape& shape, ShardMode mode,
           OptimizerKind kind = OptimizerKind::adamw, MPI_Comm world = MPI_COMM_WORLD)
      : mesh(shape, world),
        loaded(load_model(folder_of(model), mesh, at::kFloat, {.shard = mode, .activations = {}})) {
    TrainOptions options;
    options.optimizer = kind;
    optimizer = make_optimizer(options, *loaded.model, loaded.spec->adapter);
    fill(1);
  }

  /// Every element becomes another number, the same on all ranks that hold it.
  void fill(int64_t round) {
    auto state = optimizer->state();
    int64_t number = 0;
    for (const Parameter* parameter : loaded.model->parameters())
      for (std::size_t part = 0; part < parameter->parts().size(); ++part, ++number) {
        const bool replicated = parameter->placement() == TpPlacement::replicated;
        const int64_t tp = replicated ? 0 : mesh.tp_rank();
        const Range elements = parameter->part_elements(part);
        const Range mine = intersect(elements, parameter->owned());
        const at::Tensor own =
            at::arange(mine.begin - elements.begin, mine.end - elements.begin, at::kFloat)
                .add(static_cast<double>(100000 * (number % 50) + 10000 * tp))
                .mul(static_cast<double>(round));
        parameter->owned_part(parameter->master(), part).copy_(own);
        const std::string hf = loaded.spec->adapter.to_hf(parameter->parts()[part].name);
        for (auto& [kind, tensor] : state[hf])
          tensor.copy_(own.view_as(tensor).mul(kind == "exp_avg" ? 0.5 : 0.25));
      }
    optimizer->set_steps(round);
  }

  /// A step of the optimizer, which changes every element of it and of the model.
  void step() {
    const auto ones = [](const Parameter& parameter) { return at::ones_like(parameter.master()); };
    optimizer->step(owned_parts(*loaded.model, ones), /*lr=*/1, /*grad_scale=*/1);
  }

  CheckpointWriter writer(const std::string& folder, const CheckpointOptions& options = {}) {
    return CheckpointWriter(folder, options, *loaded.model, *optimizer, loaded.spec->adapter,
                            loaded.hf, mesh);
  }

  /// Every tensor by its path in a checkpoint, whole, on all ranks: what must come back.
  std::map<std::string, at::Tensor> tensors() const {
    std::map<std::string, at::Tensor> whole;
    auto state = optimizer->state();
    for (const Parameter* parameter : loaded.model->parameters())
      for (std::size_t part = 0; part < parameter->parts().size(); ++part) {
        const std::string name = loaded.spec->adapter.to_hf(parameter->parts()[part].name);
        // On one rank these are the run's own memory.
        whole["/parameters/" + name] =
            gather_part(*parameter, part, parameter->master(), mesh).clone();
        for (const auto& [kind, tensor] : state[name])
          whole["/optimizer/" + kind + "/" + name] =
              gather_part(*parameter, part, padded(*parameter, part, tensor), mesh);
      }
    return whole;
  }

  static std::string folder_of(const std::string& model) {
    return model.starts_with('/') ? model : golden_folder(model) + "/model";
  }

  Mesh mesh;
  LoadedModel loaded;
  std::unique_ptr<Optimizer> optimizer;

 private:
  /// A part's state at its place among what this rank owns of the parameter.
  static at::Tensor padded(const Parameter& parameter, std::size_t part, const at::Tensor& state) {
    at::Tensor owned = parameter.master().clone();
    parameter.owned_part(owned, part).copy_(state.view({-1}));
    return owned;
  }
};

}  // namespace archon::test
