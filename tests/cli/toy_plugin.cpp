// An architecture that can be registered and listed, but not built.
#include <archon/model/plugin.hpp>

ARCHON_PLUGIN("toy", "7.5", registry) {
  archon::ModelSpec spec;
  spec.model_type = "toy_model";
  spec.parse_config = [](const archon::HfConfig&) { return archon::DecoderConfig(); };
  spec.make_model = [](const archon::DecoderConfig&) { return std::unique_ptr<archon::Model>(); };
  spec.apply_tp = [](archon::Model&, const archon::Communicator&) {};
  spec.apply_cp = [](archon::Model&, const archon::Communicator&, int) {};
  registry.add(std::move(spec));
}
