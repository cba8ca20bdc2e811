#include "archon/model/config.hpp"

#include "archon/io/json.hpp"
#include "model/support.hpp"

namespace {

using namespace archon::test;
using archon::DecoderConfig;
using archon::HfConfig;
using archon::Json;
using archon::parse_decoder_config;

Json llama_like() {
  return Json::parse(R"({
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
}

DecoderConfig parse(const Json& json, const DecoderConfig& architecture = {}) {
  return parse_decoder_config(HfConfig(json, "config.json"), architecture);
}

DecoderConfig parse_with(const char* patch) {
  Json json = llama_like();
  json.update(Json::parse(patch));
  return parse(json);
}

BOOST_AUTO_TEST_CASE(shared_keys_are_read) {
  const DecoderConfig config = parse(llama_like());
  BOOST_TEST(config.model_type == "llama");
  BOOST_TEST(config.hidden_size == 64);
  BOOST_TEST(config.intermediate_size == 128);
  BOOST_TEST(config.num_layers == 2);
  BOOST_TEST(config.num_heads == 4);
  BOOST_TEST(config.num_kv_heads == 2);
  BOOST_TEST(config.head_dim == 16);
  BOOST_TEST(config.vocab_size == 256);
  BOOST_TEST(config.rms_norm_eps == 1e-5);
  BOOST_TEST(config.rope_theta == 10000.0);
  BOOST_TEST(config.initializer_range == 0.02);
  BOOST_TEST(!config.qkv_bias);
  BOOST_TEST(!config.qk_norm);
  BOOST_TEST(!config.tied_embeddings);
  BOOST_TEST(!config.critic);
  BOOST_TEST((config.stored_dtype == at::kFloat));
}

BOOST_AUTO_TEST_CASE(the_architecture_fills_what_is_missing) {
  DecoderConfig architecture;
  architecture.qk_norm = true;
  architecture.head_dim = 128;
  architecture.rope_theta = 5e5;
  const DecoderConfig config = parse(llama_like(), architecture);
  BOOST_TEST(config.qk_norm);
  BOOST_TEST(config.head_dim == 128);
  BOOST_TEST(config.rope_theta == 5e5);
  Json json = llama_like();
  json["head_dim"] = 24;
  BOOST_TEST(parse(json, architecture).head_dim == 24);
  json["head_dim"] = nullptr;
  BOOST_TEST(parse(json, architecture).head_dim == 128);
  json.erase("num_key_value_heads");
  BOOST_TEST(parse(json, architecture).num_kv_heads == 4);
}

BOOST_AUTO_TEST_CASE(rope_dialects_agree) {
  for (const char* patch : {
           R"({"rope_theta": 1e6})",
           R"({"rope_theta": 1000000})",
           R"({"rope_theta": 1e6, "rope_scaling": null})",
           R"({"rope_theta": 1e6, "rope_scaling": {"type": "default"}})",
           R"({"rope_theta": 1e6, "rope_scaling": {"rope_type": "default"}})",
           R"({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}})",
           R"({"rope_parameters": {"rope_theta": 1e6}})",
           R"({"rope_theta": 1e6, "rope_parameters": {"rope_type": "default"}})",
           R"({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}})",
           R"({"rope_theta": 1e6, "rope_parameters": null, "partial_rotary_factor": 1.0})",
       }) {
    BOOST_TEST_CONTEXT(patch) { BOOST_TEST(parse_with(patch).rope_theta == 1e6); }
  }
}

BOOST_AUTO_TEST_CASE(dtype_dialects_agree) {
  BOOST_TEST((parse_with(R"({"dtype": "bfloat16"})").stored_dtype == at::kBFloat16));
  BOOST_TEST((parse_with(R"({"torch_dtype": "bfloat16"})").stored_dtype == at::kBFloat16));
  BOOST_TEST((parse_with(R"({"torch_dtype": "float16"})").stored_dtype == at::kHalf));
  BOOST_TEST(
      (parse_with(R"({"dtype": null, "torch_dtype": "float16"})").stored_dtype == at::kHalf));
  BOOST_TEST((parse_with(R"({"torch_dtype": null})").stored_dtype == at::kFloat));
}

BOOST_AUTO_TEST_CASE(what_is_switched_off_is_ignored) {
  for (const char* patch : {
           R"({"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 1})",
           R"({"use_sliding_window": false, "sliding_window": null})",
           R"({"sliding_window": null})",
           R"({"layer_types": ["full_attention", "full_attention"]})",
           R"({"layer_types": null})",
           R"({"attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0})",
           R"({"pruned_heads": {}, "quantization_config": null})",
           R"({"architectures": null})",
           R"({"architectures": []})",
           R"({"some_key_of_the_future": {"a": [1]}})",
       }) {
    BOOST_TEST_CONTEXT(patch) { BOOST_TEST(parse_with(patch).hidden_size == 64); }
  }
}

BOOST_AUTO_TEST_CASE(what_the_blocks_cannot_do_is_refused_by_name) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"use_sliding_window": true, "sliding_window": 16})", "use_sliding_window"},
      {R"({"sliding_window": 4096})", "sliding_window"},
      {R"({"layer_types": ["full_attention", "sliding_attention"]})", "layer_types"},
      {R"({"rope_scaling": {"type": "linear", "factor": 2.0}})", "rope_scaling.type"},
      {R"({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})", "rope_scaling.rope_type"},
      {R"({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}})",
       "rope_parameters.rope_type"},
      {R"({"rope_parameters": {"full_attention": {"rope_type": "default"}}})",
       "rope_parameters.full_attention"},
      {R"({"rope_parameters": {"partial_rotary_factor": 0.5}})",
       "rope_parameters.partial_rotary_factor"},
      {R"({"partial_rotary_factor": 0.25})", "partial_rotary_factor"},
      {R"({"hidden_act": "gelu"})", "hidden_act"},
      {R"({"attention_bias": true})", "attention_bias"},
      {R"({"mlp_bias": true})", "mlp_bias"},
      {R"({"attention_dropout": 0.1})", "attention_dropout"},
      {R"({"classifier_dropout": 0.1})", "classifier_dropout"},
      {R"({"pruned_heads": {"0": [1]}})", "pruned_heads"},
      {R"({"quantization_config": {"bits": 4}})", "quantization_config"},
      {R"({"architectures": ["LlamaForSequenceClassification"]})", "architectures"},
      {R"({"architectures": ["LlamaModel"]})", "architectures"},
      {R"({"dtype": "float8_e4m3fn"})", "dtype"},
      {R"({"torch_dtype": "int8"})", "torch_dtype"},
  };
  for (const auto& [patch, key] : cases) {
    BOOST_TEST_CONTEXT(patch) {
      check_throws([&] { parse_with(patch); },
                   {"config.json", '"' + std::string(key) + '"', " is "});
    }
  }
}

BOOST_AUTO_TEST_CASE(attention_bias_is_fine_where_the_architecture_has_it) {
  DecoderConfig architecture;
  architecture.qkv_bias = true;
  Json json = llama_like();
  json["attention_bias"] = true;
  BOOST_TEST(parse(json, architecture).qkv_bias);
}

BOOST_AUTO_TEST_CASE(critics) {
  const std::string critic = R"("architectures": ["LlamaForTokenClassification"])";
  const auto with = [&](const std::string& more) {
    return parse_with(("{" + critic + more + "}").c_str());
  };
  BOOST_TEST(with("").critic);
  BOOST_TEST(with(R"(, "num_labels": 1)").critic);
  BOOST_TEST(with(R"(, "id2label": {"0": "LABEL_0"}, "token_classification_bias": false)").critic);
  check_throws([&] { with(R"(, "num_labels": 2)"); }, {"\"num_labels\" is 2"});
  check_throws([&] { with(R"(, "id2label": {"0": "a", "1": "b"})"); }, {"\"id2label\""});
  check_throws([&] { with(R"(, "id2label": [0])"); }, {"\"id2label\"", "must be an object"});
  check_throws([&] { with(R"(, "token_classification_bias": true)"); },
               {"\"token_classification_bias\""});
}

BOOST_AUTO_TEST_CASE(sizes_that_make_no_model_are_refused) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"}) {
    for (const char* value : {"0", "-4", "4611686018427387904", "18446744073709551615"}) {
      BOOST_TEST_CONTEXT(key << " " << value) {
        check_throws([&] { parse_with(("{\"" + std::string(key) + "\": " + value + "}").c_str()); },
                     {'"' + std::string(key) + "\" is", value});
      }
    }
  }
  const std::pair<const char*, const char*> cases[] = {
      {R"({"num_key_value_heads": 3})", "\"num_key_value_heads\" 3"},
      {R"({"hidden_size": 66})", "\"hidden_size\" 66"},
      {R"({"hidden_size": 60})", "15 is odd"},
      {R"({"head_dim": 7})", "7 is odd"},
      {R"({"head_dim": 514})", "the head dimension 514 is more than 512"},
      {R"({"hidden_size": 4096, "num_attention_heads": 4})", "1024 is more than 512"},
      {R"({"num_attention_heads": 4194304, "head_dim": 512})", "makes no model"},
      {R"({"rope_theta": 0})", "\"rope_theta\" is 0"},
      {R"({"rms_norm_eps": -1.0})", "\"rms_norm_eps\" is -1"},
      {R"({"initializer_range": -0.5})", "\"initializer_range\" is -0.5"},
  };
  for (const auto& [patch, message] : cases) {
    BOOST_TEST_CONTEXT(patch) {
      check_throws([&] { parse_with(patch); }, {message});
    }
  }
}

BOOST_AUTO_TEST_CASE(missing_keys_are_named) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size", "model_type"}) {
    Json json = llama_like();
    json.erase(key);
    check_throws([&] { parse(json); }, {"config.json has no \"" + std::string(key) + '"'});
    json[key] = nullptr;
    check_throws([&] { parse(json); }, {"config.json has no \"" + std::string(key) + '"'});
  }
}

BOOST_AUTO_TEST_CASE(wrong_types_are_named) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"hidden_size": "64"})", "an integer"},
      {R"({"hidden_size": 64.0})", "an integer"},
      {R"({"head_dim": true})", "an integer"},
      {R"({"rope_theta": "1e6"})", "a number"},
      {R"({"rope_parameters": {"rope_theta": []}})", "a number"},
      {R"({"rope_scaling": "linear"})", "an object"},
      {R"({"rope_scaling": {"type": 3}})", "a string"},
      {R"({"tie_word_embeddings": 1})", "true or false"},
      {R"({"use_sliding_window": "false"})", "true or false"},
      {R"({"hidden_act": 1})", "a string"},
      {R"({"model_type": ["llama"]})", "a string"},
      {R"({"architectures": "LlamaForCausalLM"})", "a list of strings"},
      {R"({"architectures": [1]})", "a string"},
      {R"({"layer_types": "full_attention"})", "a list of strings"},
      {R"({"dtype": 32})", "a string"},
  };
  for (const auto& [patch, wanted] : cases) {
    BOOST_TEST_CONTEXT(patch) {
      const std::string key = Json::parse(patch).begin().key();
      check_throws([&] { parse_with(patch); }, {'"' + key, "must be " + std::string(wanted)});
    }
  }
  check_throws([] { HfConfig(Json::parse("[1]"), "list.json"); }, {"list.json", "object"});
}

BOOST_AUTO_TEST_CASE(folders_and_files_are_read) {
  for (const std::string& path :
       {golden("q2_tiny_tied/model").string(), golden("q2_tiny_tied/model/config.json").string()}) {
    const HfConfig hf = HfConfig::read(path);
    BOOST_TEST(hf.model_type() == "qwen2");
    BOOST_TEST(hf.architecture() == "Qwen2ForCausalLM");
    BOOST_TEST(parse_decoder_config(hf).tied_embeddings);
  }
  BOOST_TEST(parse_decoder_config(HfConfig::read(golden("q2_critic/model").string())).critic);
  const TempFolder folder;
  check_throws([&] { HfConfig::read(folder.string()); }, {"config.json"});
  write_bytes(folder / "config.json", "{\"hidden_size\": ");
  check_throws([&] { HfConfig::read(folder.string()); }, {"config.json"});
}

}  // namespace
