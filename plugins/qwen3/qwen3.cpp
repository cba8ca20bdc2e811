// Qwen3 (HF model_type "qwen3"): a Llama-like decoder with an RMSNorm on every query and key
// head, no bias, and a head dimension of its own that need not be hidden_size / heads.
#include <archon/model/plugin.hpp>

namespace {

archon::DecoderConfig parse(const archon::HfConfig& hf) {
  archon::DecoderConfig qwen3;
  qwen3.qk_norm = true;
  qwen3.head_dim = 128;  // when the file has none
  return archon::parse_decoder_config(hf, qwen3);
}

}  // namespace

ARCHON_PLUGIN("qwen3", "1.0", registry) {
  registry.add(archon::decoder_model_spec("qwen3", parse));
}
