// Qwen2 and Qwen2.5 (HF model_type "qwen2"): a Llama-like decoder whose query, key and value
// projections have a bias.
#include <archon/model/plugin.hpp>

namespace {

archon::DecoderConfig parse(const archon::HfConfig& hf) {
  archon::DecoderConfig qwen2;
  qwen2.qkv_bias = true;
  return archon::parse_decoder_config(hf, qwen2);
}

}  // namespace

ARCHON_PLUGIN("qwen2", "1.0", registry) {
  registry.add(archon::decoder_model_spec("qwen2", parse));
}
