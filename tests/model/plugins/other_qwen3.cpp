// Takes the place of the installed qwen3.
#include <archon/model/plugin.hpp>

ARCHON_PLUGIN("qwen3", "99.0", registry) {
  registry.add(archon::decoder_model_spec(
      "qwen3", [](const archon::HfConfig& hf) { return archon::parse_decoder_config(hf); }));
}
