#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <fmt/ranges.h>

#include <cstring>
#include <map>

#include "archon/base/error.hpp"
#include "archon/model/misfits.hpp"
#include "archon/model/state_dict.hpp"

namespace archon {
namespace {

bool is_weight_type(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

/// A part of a parameter and the name of the tensor that fills it.
struct Target {
  Parameter* parameter;
  std::size_t part;
  std::string hf_name;
};

std::map<std::string, Target> targets_by_name(Model& model) {
  std::map<std::string, Target> targets;
  for (Parameter* parameter : model.parameters()) {
    for (std::size_t part = 0; part < parameter->parts().size(); ++part) {
      targets.emplace(parameter->parts()[part].name, Target{parameter, part, ""});
    }
  }
  return targets;
}

void check_entry(const SafetensorsEntry& entry, const Target& target, Misfits& misfits) {
  const std::vector<int64_t>& wanted = target.parameter->parts()[target.part].shape;
  if (entry.shape != wanted) {
    misfits.add("of another shape",
                fmt::format("{} [{}], the model needs [{}]", entry.name,
                            fmt::join(entry.shape, ", "), fmt::join(wanted, ", ")));
  }
  if (!is_weight_type(entry.dtype)) {
    misfits.add("of a type that is no weight's",
                fmt::format("{} ({})", entry.name, c10::toString(entry.dtype)));
  }
}

/// This rank's share of a whole tensor: a view.
at::Tensor share_of(const at::Tensor& whole, const Target& target) {
  const Range range = target.parameter->tp_range(target.part);
  return whole.narrow(target.parameter->tp_dim(), range.begin, range.size());
}

/// Copies what this rank owns out of its tp share, which may be a view of columns in the file:
/// only the rows that hold these elements are touched.
void fill_owned(const Target& target, const at::Tensor& share) {
  const Parameter& parameter = *target.parameter;
  const Range part = parameter.part_elements(target.part);
  const Range mine = intersect(part, parameter.owned());
  if (mine.size() == 0) return;
  const int64_t row = share.numel() / share.size(0);
  const int64_t first = (mine.begin - part.begin) / row;
  const int64_t last = (mine.end - part.begin + row - 1) / row;
  const at::Tensor rows = share.narrow(0, first, last - first).contiguous().view({-1});
  parameter.owned_part(parameter.master(), target.part)
      .copy_(rows.narrow(0, mine.begin - part.begin - first * row, mine.size()));
}

/// Each rank compares its rows; together the tp group sees them all.
void check_tied_head(const WeightFolder& weights, const std::string& head,
                     const Target& embedding) {
  const at::Tensor ours = share_of(weights.view(embedding.hf_name), embedding).contiguous();
  const at::Tensor theirs = weights.view(head);
  const bool alike = theirs.scalar_type() == ours.scalar_type() &&
                     theirs.sizes() == weights.view(embedding.hf_name).sizes();
  ARCHON_VALIDATE(alike && std::memcmp(share_of(theirs, embedding).contiguous().const_data_ptr(),
                                       ours.const_data_ptr(), ours.nbytes()) == 0,
                  "{}: the config ties the head to the embedding (tie_word_embeddings true), but "
                  "{} differs from {}, so one of the two would be lost; set tie_word_embeddings to "
                  "false, or remove {} from the file",
                  weights.path(), head, embedding.hf_name, head);
}

}  // namespace

void load_weights(Model& model, const StateDictAdapter& adapter, const WeightFolder& weights) {
  const at::NoGradGuard no_grad;
  std::map<std::string, Target> targets = targets_by_name(model);
  const bool tied = model.config().tied_embeddings && !model.config().critic;
  std::string tied_head;
  Misfits misfits;

  for (const std::string& name : weights.names()) {
    const std::string internal = adapter.to_internal(name).value_or("");
    const auto target = targets.find(internal);
    if (target != targets.end() && target->second.hf_name.empty()) {
      target->second.hf_name = name;
      check_entry(weights.entry(name), target->second, misfits);
    } else if (tied && internal == "head.weight" && tied_head.empty()) {
      tied_head = name;
    } else {
      misfits.add("unexpected", name);
    }
  }
  for (const auto& [internal, target] : targets) {
    if (target.hf_name.empty()) misfits.add("missing", adapter.to_hf(internal));
  }
  misfits.throw_if_any(weights.path());
  if (!tied_head.empty()) check_tied_head(weights, tied_head, targets.at("embedding.weight"));

  for (const auto& [internal, target] : targets)
    fill_owned(target, share_of(weights.view(target.hf_name), target));
  for (ParameterUnit* unit : model.units()) unit->refresh_values();
}

}  // namespace archon
