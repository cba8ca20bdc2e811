#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "archon/model/model.hpp"
#include "archon/model/state_dict.hpp"

namespace archon {

/// Everything the engine needs to know about an architecture.
struct ModelSpec {
  std::string model_type;  ///< as in HF config.json
  std::function<DecoderConfig(const HfConfig&)> parse_config;
  std::function<std::unique_ptr<Model>(const DecoderConfig&)> make_model;
  StateDictAdapter adapter = decoder_state_dict_adapter();
  /// Hooks, called in this order. They refuse head counts that do not fit (InputError with the
  /// numbers and a configuration that would work), then hand the model its groups.
  std::function<void(Model&, const Communicator& tp)> apply_tp;
  std::function<void(Model&, const Communicator& cp, int tp_size)> apply_cp;
  std::string plugin = "(built in)";  ///< file it came from
};

/// The head rules: heads % tp, kv heads % tp, (heads/tp) % cp all 0; kv heads per tp rank a
/// multiple of cp, or a divisor of it. InputError with the numbers and the nearest that fit.
void validate_tp_heads(const DecoderConfig& config, int tp);
void validate_cp_heads(const DecoderConfig& config, int cp, int tp);

/// Spec of a Llama-like decoder: the standard factory, adapter and hooks. A plugin adds the rest.
ModelSpec decoder_model_spec(std::string model_type,
                             std::function<DecoderConfig(const HfConfig&)> parse_config);

/// Maps HF model_type to ModelSpec. One per process.
class ModelRegistry {
 public:
  static ModelRegistry& instance();

  /// InputError that names both plugins when the model_type is there already.
  void add(ModelSpec spec);
  /// InputError that lists the known types.
  const ModelSpec& find(const std::string& model_type) const;
  std::vector<const ModelSpec*> all() const;

 private:
  std::map<std::string, ModelSpec> specs_;
};

}  // namespace archon
