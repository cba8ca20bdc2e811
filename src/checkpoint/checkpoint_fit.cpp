#include "checkpoint_fit.hpp"

#include <fmt/ranges.h>

#include "archon/base/error.hpp"
#include "archon/model/misfits.hpp"

namespace archon {
namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;  // by HuggingFace name

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

Shapes shapes_of(const Model& model, const StateDictAdapter& adapter) {
  Shapes shapes;
  for (const Parameter* parameter : model.parameters())
    for (const ParameterPart& part : parameter->parts())
      shapes[adapter.to_hf(part.name)] = part.shape;
  return shapes;
}

/// Every tensor is there in its shape below `group`, and nothing else.
void check_group(const SavedCheckpoint& saved, const std::string& group, Shapes wanted) {
  Misfits misfits;
  for (const h5::DatasetInfo& info : saved.tensors()) {
    if (!info.path.starts_with(group)) continue;
    const auto found = wanted.extract(info.path.substr(group.size()));
    if (found.empty())
      misfits.add("unexpected", info.path);
    else if (found.mapped() != info.shape)
      misfits.add("of another shape",
                  fmt::format("{} [{}], the model needs [{}]", info.path,
                              fmt::join(info.shape, ", "), fmt::join(found.mapped(), ", ")));
  }
  for (const auto& [name, shape] : wanted) misfits.add("missing", group + name);
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
  const Shapes shapes = shapes_of(model, adapter);
  check_group(saved, kParameterGroup, shapes);
  if (optimizer == nullptr) return;
  const std::set<std::string> kinds = kinds_of_state(*optimizer);
  check_optimizer(saved, kinds);
  for (const std::string& kind : kinds) check_group(saved, kOptimizerGroup + kind + "/", shapes);
}

}  // namespace archon
