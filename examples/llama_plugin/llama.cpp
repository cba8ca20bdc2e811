// Llama 2 and 3 (HF model_type "llama"): RMSNorm, rotary embedding, grouped-query attention without
// bias or query and key norm, SwiGLU, a tied or untied head. (3.1 and later have the rope type
// "llama3", which is refused.)
#include <archon/model/plugin.hpp>

namespace {

archon::DecoderConfig parse(const archon::HfConfig& hf) {
  if (hf.integer("pretraining_tp", 1) != 1) {
    hf.refuse("pretraining_tp", "projections computed in slices are not implemented");
  }
  archon::DecoderConfig llama;  // what no config.json says: no qkv_bias, no qk_norm
  return archon::parse_decoder_config(hf, llama);
}

}  // namespace

ARCHON_PLUGIN("llama", "1.0", registry) {
  registry.add(archon::decoder_model_spec("llama", parse));
}
