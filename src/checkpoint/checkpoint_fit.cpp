#include "checkpoint_fit.hpp"

#include <fmt/ranges.h>

#include "archon/base/error.hpp"
#include "archon/model/misfits.hpp"

namespace archon {
namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;  // by path

/// Of one weight: "exp_avg", "exp_avg_sq".
std::set<std::string> kinds_of_state(Optimizer& optimizer) {
  std::set<std::string> kinds;
  for (const auto& [name, states] : optimizer.state())
    for (const auto& [kind, tensor] : states) kinds.insert(kind);
  return kinds;
}

std::string show_kinds(const std::set<std::string>& kinds) {
  return kinds.empty() ? "no optimizer state"
                       : fmt::format("the optimizer state {}", fmt::join(kinds, ", "));
}

void check_optimizer(const SavedCheckpoint& saved, const std::set<std::string>& kinds) {
  const std::set<std::string> there = kinds_of_state(saved);
  ARCHON_VALIDATE(there == kinds,
                  "the checkpoint {} holds {}, where this run needs {}; go on with the --optimizer "
                  "that it was saved with",
                  saved.folder(), show_kinds(there), show_kinds(kinds));
}

Shapes shapes_of_run(const Model& model, const std::set<std::string>& kinds,
                     const StateDictAdapter& adapter) {
  Shapes shapes;
  for (const Parameter* parameter : model.parameters())
    for (const ParameterPart& part : parameter->parts()) {
      const std::string name = adapter.to_hf(part.name);
      shapes[kParameterGroup + name] = part.shape;
      for (const std::string& kind : kinds)
        shapes[kOptimizerGroup + kind + "/" + name] = part.shape;
    }
  return shapes;
}

/// Every tensor of the run is there in its shape, and nothing else.
void check_tensors(const SavedCheckpoint& saved, Shapes wanted, bool with_optimizer) {
  Misfits misfits;
  for (const h5::DatasetInfo& info : saved.tensors()) {
    if (!with_optimizer && info.path.starts_with(kOptimizerGroup)) continue;
    const auto found = wanted.extract(info.path);
    if (found.empty())
      misfits.add("unexpected", info.path);
    else if (found.mapped() != info.shape)
      misfits.add("of another shape",
                  fmt::format("{} [{}], the model needs [{}]", info.path,
                              fmt::join(info.shape, ", "), fmt::join(found.mapped(), ", ")));
  }
  for (const auto& [path, shape] : wanted) misfits.add("missing", path);
  misfits.throw_if_any(saved.folder());
}

}  // namespace

std::set<std::string> kinds_of_state(const SavedCheckpoint& saved) {
  const std::string group = kOptimizerGroup;
  std::set<std::string> kinds;
  for (const h5::DatasetInfo& info : saved.tensors())
    if (info.path.starts_with(group))
      kinds.insert(
          info.path.substr(group.size(), info.path.find('/', group.size()) - group.size()));
  return kinds;
}

void check_fit(const SavedCheckpoint& saved, const Model& model, Optimizer* optimizer,
               const StateDictAdapter& adapter) {
  std::set<std::string> kinds;
  if (optimizer != nullptr) {
    kinds = kinds_of_state(*optimizer);
    check_optimizer(saved, kinds);
  }
  check_tensors(saved, shapes_of_run(model, kinds, adapter), optimizer != nullptr);
}

}  // namespace archon
