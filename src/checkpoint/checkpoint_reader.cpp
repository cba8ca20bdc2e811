#include "archon/checkpoint/checkpoint_reader.hpp"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "archon/base/error.hpp"
#include "archon/comm/agreement.hpp"
#include "checkpoint_fit.hpp"

namespace archon {
namespace {

int64_t optimizer_steps(const SavedCheckpoint& saved, const Json& state) {
  constexpr const char* kKey = "optimizer_steps";
  ARCHON_VALIDATE(state.is_object() && state.contains(kKey) &&
                      state.at(kKey).is_number_integer() && state.at(kKey) >= 0,
                  "{}: the trainer's state has no number \"{}\"", saved.folder(), kKey);
  return state.at(kKey).get<int64_t>();
}

/// This rank's part.
Json load(const std::string& folder, Model& model, Optimizer* optimizer,
          const StateDictAdapter& adapter) {
  SavedCheckpoint saved(folder);
  check_fit(saved, model, optimizer, adapter);
  const Json state = saved.trainer();
  if (optimizer != nullptr) optimizer->set_steps(optimizer_steps(saved, state));
  saved.read(owned_pieces(model, optimizer, adapter));
  return state.value("trainer", Json::object());
}

}  // namespace

Json load_checkpoint(const std::string& folder, Model& model, Optimizer* optimizer,
                     const StateDictAdapter& adapter, const Mesh& mesh) {
  const at::NoGradGuard no_grad;
  Json trainer;
  const std::string failure = attempt([&] { trainer = load(folder, model, optimizer, adapter); });
  const std::string first = agree_on_failure(mesh.world(), failure);
  if (!first.empty()) throw InputError(first);
  for (ParameterUnit* unit : model.units()) unit->refresh_values();
  return trainer;
}

CheckpointSummary summarize_checkpoint(const std::string& folder) {
  const SavedCheckpoint saved(folder);
  CheckpointSummary summary{saved.step(),  saved.layout(),        saved.shards(), 0, 0,
                            saved.bytes(), kinds_of_state(saved),
                            saved.trainer().value("trainer", Json::object())};
  for (const h5::DatasetInfo& info : saved.tensors()) {
    if (!info.path.starts_with(kParameterGroup)) continue;
    ++summary.tensors;
    summary.parameters += whole_box(info.shape).elements();
  }
  return summary;
}

}  // namespace archon
