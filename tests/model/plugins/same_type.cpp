// Registers a model_type that another plugin has.
#include <archon/model/plugin.hpp>

ARCHON_PLUGIN("same_type", "1.0", registry) {
  registry.add(archon::decoder_model_spec(
      "qwen3", [](const archon::HfConfig& hf) { return archon::parse_decoder_config(hf); }));
}
