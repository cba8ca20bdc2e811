#include <set>

#include "archon/model/state_dict.hpp"
#include "model/fake_model.hpp"
#include "model/support.hpp"

namespace {

using namespace archon::test;
using archon::decoder_state_dict_adapter;
using archon::DecoderConfig;
using archon::HfConfig;
using archon::StateDictAdapter;
using archon::WeightFolder;

BOOST_AUTO_TEST_CASE(every_tensor_of_the_golden_models_maps_and_comes_back) {
  const StateDictAdapter adapter = decoder_state_dict_adapter();
  for (const char* name : {"q2_tiny_tied", "q2_critic", "q3_tiny", "q3_kv2_h8"}) {
    const HfConfig hf = HfConfig::read(golden(name).string() + "/model");
    DecoderConfig config = archon::parse_decoder_config(hf);
    config.qkv_bias = hf.model_type() == "qwen2";
    config.qk_norm = hf.model_type() == "qwen3";
    std::set<std::string> from_file;
    for (const std::string& tensor : WeightFolder(golden(name).string() + "/model").names()) {
      const auto internal = adapter.to_internal(tensor);
      BOOST_REQUIRE_MESSAGE(internal.has_value(), name << ": " << tensor);
      BOOST_TEST(adapter.to_hf(*internal) == tensor);
      from_file.insert(*internal);
    }
    std::set<std::string> from_model;
    FakeModel model(config);
    for (const archon::Parameter* parameter : model.parameters()) {
      for (const auto& part : parameter->parts()) from_model.insert(part.name);
    }
    BOOST_TEST(from_file == from_model, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(names_are_pinned) {
  const StateDictAdapter adapter = decoder_state_dict_adapter();
  const std::pair<const char*, const char*> pairs[] = {
      {"model.embed_tokens.weight", "embedding.weight"},
      {"model.layers.0.input_layernorm.weight", "layers.0.attention_norm.weight"},
      {"model.layers.7.self_attn.q_proj.weight", "layers.7.attention.query.weight"},
      {"model.layers.7.self_attn.k_proj.bias", "layers.7.attention.key.bias"},
      {"model.layers.10.self_attn.v_proj.weight", "layers.10.attention.value.weight"},
      {"model.layers.123.self_attn.o_proj.weight", "layers.123.attention.output.weight"},
      {"model.layers.1.self_attn.q_norm.weight", "layers.1.attention.query_norm.weight"},
      {"model.layers.1.self_attn.k_norm.weight", "layers.1.attention.key_norm.weight"},
      {"model.layers.1.post_attention_layernorm.weight", "layers.1.mlp_norm.weight"},
      {"model.layers.1.mlp.gate_proj.weight", "layers.1.mlp.gate.weight"},
      {"model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up.weight"},
      {"model.layers.1.mlp.down_proj.weight", "layers.1.mlp.down.weight"},
      {"model.norm.weight", "final_norm.weight"},
      {"lm_head.weight", "head.weight"},
      {"score.weight", "score.weight"},
  };
  for (const auto& [hf, internal] : pairs) {
    BOOST_TEST(adapter.to_internal(hf).value_or("") == internal);
    BOOST_TEST(adapter.to_hf(internal) == hf);
  }
}

BOOST_AUTO_TEST_CASE(traces_of_torch_compile_are_stripped) {
  const StateDictAdapter adapter = decoder_state_dict_adapter();
  for (const char* name : {"_orig_mod.model.layers.3.mlp.up_proj.weight",
                           "model._orig_mod.layers.3.mlp.up_proj.weight",
                           "model.layers.3._orig_mod.mlp.up_proj._orig_mod.weight",
                           "model.layers.3.mlp.up_proj.weight._orig_mod"}) {
    BOOST_TEST(adapter.to_internal(name).value_or("") == "layers.3.mlp.up.weight");
  }
}

BOOST_AUTO_TEST_CASE(other_names_do_not_map) {
  const StateDictAdapter adapter = decoder_state_dict_adapter();
  for (const char* name :
       {"", "model", "model.layers..mlp.up_proj.weight", "model.layers.x.mlp.up_proj.weight",
        "model.layers.01.mlp.up_proj.weight", "model.layers.-1.mlp.up_proj.weight",
        "model.layers.1.2.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight2",
        "xmodel.layers.1.mlp.up_proj.weight", "model.layers.mlp.up_proj.weight",
        "model.layers.1.self_attn.o_proj.bias", "model.norm.bias", "score.bias"}) {
    BOOST_TEST_CONTEXT(name) { BOOST_TEST(!adapter.to_internal(name).has_value()); }
  }
  check_throws<archon::RuntimeFailure>([&] { adapter.to_hf("layers.1.other.weight"); },
                                       {"layers.1.other.weight", "add a rule"});
}

}  // namespace
