#include "archon/model/registry.hpp"

#include <fmt/ranges.h>

#include <utility>

#include "archon/base/error.hpp"
#include "archon/model/decoder.hpp"

namespace archon {

ModelSpec decoder_model_spec(std::string model_type,
                             std::function<DecoderConfig(const HfConfig&)> parse_config) {
  ModelSpec spec;
  spec.model_type = std::move(model_type);
  spec.parse_config = std::move(parse_config);
  spec.make_model = [](const DecoderConfig& config) { return make_decoder(config); };
  spec.apply_tp = [](Model& model, const Communicator& tp) {
    validate_tp_heads(model.config(), tp.size());
    model.set_tp_group(tp);
  };
  spec.apply_cp = [](Model& model, const Communicator& cp, int tp_size) {
    validate_cp_heads(model.config(), cp.size(), tp_size);
    model.set_cp_group(cp);
  };
  return spec;
}

ModelRegistry& ModelRegistry::instance() {
  static ModelRegistry registry;
  return registry;
}

void ModelRegistry::add(ModelSpec spec) {
  ARCHON_VALIDATE(!spec.model_type.empty() && spec.parse_config && spec.make_model &&
                      spec.apply_tp && spec.apply_cp,
                  "plugin {} registers the model_type \"{}\" without a name, config parser, model "
                  "factory or hook; begin from decoder_model_spec, which has them all",
                  spec.plugin, spec.model_type);
  const auto there = specs_.find(spec.model_type);
  ARCHON_VALIDATE(
      there == specs_.end(),
      "the model_type \"{}\" is registered twice, by plugin {} and by plugin {}; remove "
      "one of them",
      spec.model_type, there->second.plugin, spec.plugin);
  specs_.emplace(spec.model_type, std::move(spec));
}

const ModelSpec& ModelRegistry::find(const std::string& model_type) const {
  const auto spec = specs_.find(model_type);
  if (spec != specs_.end()) return spec->second;
  std::vector<std::string> known;
  for (const auto& entry : specs_) known.push_back(entry.first);
  throw InputError(
      fmt::format("no plugin knows the model_type \"{}\"; known: {}; name a plugin for it with "
                  "--plugin FILE or "
                  "ARCHON_PLUGIN_PATH",
                  model_type, known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", "))));
}

std::vector<const ModelSpec*> ModelRegistry::all() const {
  std::vector<const ModelSpec*> specs;
  for (const auto& entry : specs_) specs.push_back(&entry.second);
  return specs;
}

}  // namespace archon
