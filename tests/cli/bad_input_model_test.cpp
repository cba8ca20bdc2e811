// Models that are damaged, incomplete or ask for what Archon does not do; and bad plugins.
#include "archon/model/plugin.hpp"
#include "inputs.hpp"

using namespace archon;
using namespace archon::test;

namespace {

std::string plugin(const std::string& name) {
  return std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/tests/plugins/" + name + ".so";
}

/// One edit of the good config, and the words that the refusal must have.
struct ConfigCase {
  std::function<void(Json&)> edit;
  std::vector<std::string> parts;
};

/// One edit of the good weights.
struct WeightCase {
  std::function<void(Json&, std::string&)> edit;
  std::vector<std::string> parts;
};

constexpr const char* kNorm = "model.norm.weight";  // [48]

}  // namespace

BOOST_AUTO_TEST_CASE(folders_that_are_no_model) {
  const Inputs inputs;
  check_bad_input(2, inputs.eval({"--model", inputs.folder / "none"}),
                  {inputs.folder / "none", "No such file"});
  check_bad_input(1, inputs.eval({"--model", inputs.data}), {inputs.data});
  std::filesystem::remove(inputs.model + "/config.json");
  check_bad_input(1, inputs.eval(), {inputs.model, "config.json"});
}

BOOST_AUTO_TEST_CASE(configs_that_are_no_json) {
  const Inputs inputs;
  const std::string config = inputs.model + "/config.json", good = read_bytes(config);
  const std::vector<std::string> bad = {"",         "not JSON", good.substr(0, good.size() / 2),
                                        "[1, 2]",   "\xff\xfe", "{\"a\": 1e999}",
                                        "{\"model_type\": " + std::string(200'000, '[') +
                                            std::string(200'000, ']') + "}",
                                        good + good};
  for (const std::string& text : bad) {
    write_bytes(config, text);
    check_bad_input(1, inputs.eval(), {config});
  }
  check_bad_input(4, inputs.train({"--tp", "2"}), {config, "not valid JSON"});
}

BOOST_AUTO_TEST_CASE(generation_configs_that_name_no_end_token) {
  const Inputs inputs;
  const std::string settings = inputs.model + "/generation_config.json";
  write_bytes(settings, "[1]");
  check_bad_input(1, inputs.generate(), {settings + " holds no JSON object"});
  const std::string bad[] = {"\"</s>\"", "[1,256]", "18446744073709551615"};
  for (const std::string& eos : bad) {
    write_bytes(settings, "{\"eos_token_id\": " + eos + "}");
    check_bad_input(
        1, inputs.generate(),
        {settings + ": \"eos_token_id\" is " + eos + ", ", "[0, 256)", "--stop-tokens"});
  }
  check_runs(1, inputs.generate({"--stop-tokens", "1", "--max-new-tokens", "2"}));
  write_bytes(settings, "{}");
  inputs.edit_config([](Json& config) { config["eos_token_id"] = 2.5; });
  check_bad_input(1, inputs.generate(), {"config.json: \"eos_token_id\" is 2.5, "});
}

BOOST_AUTO_TEST_CASE(configs_that_make_no_model) {
  const std::vector<ConfigCase> cases = {
      {[](Json& c) { c.erase("hidden_size"); }, {"\"hidden_size\""}},
      {[](Json& c) { c.erase("model_type"); }, {"\"model_type\""}},
      {[](Json& c) { c["hidden_size"] = "48"; }, {"\"hidden_size\"", "integer"}},
      {[](Json& c) { c["hidden_size"] = 48.5; }, {"\"hidden_size\"", "48.5", "integer"}},
      {[](Json& c) { c["vocab_size"] = -1; }, {"\"vocab_size\" is -1"}},
      {[](Json& c) { c["num_hidden_layers"] = 0; }, {"\"num_hidden_layers\" is 0"}},
      {[](Json& c) { c["num_key_value_heads"] = 3; }, {"num_key_value_heads\" 3"}},
      {[](Json& c) { c["rms_norm_eps"] = -1; }, {"\"rms_norm_eps\" is -1"}},
      {[](Json& c) { c["architectures"] = Json::array({"Qwen3ForDreams"}); }, {"architectures"}},
      {[](Json& c) { c["model_type"] = "dream"; },
       {"no plugin knows the model_type \"dream\"", "qwen2", "qwen3", "--plugin"}}};
  for (const auto& [edit, parts] : cases) {
    const Inputs inputs;
    inputs.edit_config(edit);
    check_bad_input(1, inputs.eval(), parts);
  }
}

BOOST_AUTO_TEST_CASE(configs_that_ask_for_what_is_not_done) {
  const std::vector<ConfigCase> cases = {
      {[](Json& c) { c["use_sliding_window"] = true; }, {"use_sliding_window", "sliding-window"}},
      {[](Json& c) { c["rope_parameters"]["rope_type"] = "yarn"; }, {"rope_type", "yarn"}},
      {[](Json& c) {
         c["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
       },
       {"rope_scaling", "linear"}},
      {[](Json& c) { c["attention_bias"] = true; }, {"attention_bias"}},
      {[](Json& c) { c["hidden_act"] = "gelu"; }, {"hidden_act", "gelu", "silu"}},
      {[](Json& c) { c["layer_types"][1] = "sliding_attention"; }, {"sliding_attention"}}};
  for (const auto& [edit, parts] : cases) {
    const Inputs inputs;
    inputs.edit_config(edit);
    check_bad_input(1, inputs.eval(), parts);
  }
  const Inputs inputs;
  inputs.edit_config(cases[0].edit);
  check_bad_input(4, inputs.train({"--cp", "2", "--tp", "2"}), cases[0].parts);
}

BOOST_AUTO_TEST_CASE(weights_that_are_cut_or_no_safetensors) {
  const Inputs inputs;
  const std::string good = read_bytes(inputs.weights);
  const std::string huge(8, '\x7f');
  const std::vector<std::string> bad = {"",
                                        good.substr(0, 5),
                                        good.substr(0, 100),
                                        good.substr(0, good.size() - 1),
                                        good + "x",
                                        huge + good.substr(8),
                                        good.substr(0, 8) + "x" + good.substr(9)};
  for (const std::string& bytes : bad) {
    write_bytes(inputs.weights, bytes);
    check_bad_input(1, inputs.eval(), {inputs.weights});
  }
  check_bad_input(4, inputs.train({"--tp", "2"}), {inputs.weights});
}

BOOST_AUTO_TEST_CASE(weights_whose_header_lies) {
  const std::vector<WeightCase> cases = {
      {[](Json& h, std::string&) { h[kNorm]["dtype"] = "F31"; }, {kNorm, "F31"}},
      {[](Json& h, std::string&) { h[kNorm]["dtype"] = "F16"; }, {kNorm, "96 bytes", "192"}},
      {[](Json& h, std::string&) { h[kNorm]["shape"] = {47}; }, {kNorm, "188 bytes", "192"}},
      {[](Json& h, std::string&) { h[kNorm]["shape"] = {-48}; }, {kNorm, "shape"}},
      {[](Json& h, std::string&) {
         h[kNorm]["data_offsets"] = {8, 4};
       },
       {kNorm, "[8, 4]"}},
      {[](Json& h, std::string&) { h[kNorm]["data_offsets"][1] = 1 << 30; }, {kNorm, "outside"}},
      {[](Json& h, std::string&) {
         h[kNorm]["data_offsets"] = {0, 192};
       },
       {"overlaps"}},
      {[](Json& h, std::string&) { h.erase(kNorm); }, {"model.safetensors"}}};
  for (const auto& [edit, parts] : cases) {
    const Inputs inputs;
    inputs.edit_weights(edit);
    check_bad_input(1, inputs.eval(), parts);
  }
}

BOOST_AUTO_TEST_CASE(tensors_that_do_not_fit_the_config) {
  const std::vector<WeightCase> cases = {
      {[](Json& h, std::string&) {
         h["model.norm.dream"] = h[kNorm];
         h.erase(kNorm);
       },
       {"missing: model.norm.weight", "unexpected: model.norm.dream"}},
      {[](Json& h, std::string&) {
         h[kNorm]["shape"] = {6, 8};
       },
       {kNorm, "[6, 8]", "[48]"}},
      {[](Json& h, std::string&) { h[kNorm]["dtype"] = "I32"; }, {kNorm, "type"}}};
  for (const auto& [edit, parts] : cases) {
    const Inputs inputs;
    inputs.edit_weights(edit);
    check_bad_input(1, inputs.eval(), parts);
  }
  const Inputs inputs;
  inputs.edit_weights(cases[0].edit);
  check_bad_input(4, inputs.train({"--cp", "2", "--tp", "2"}), cases[0].parts);
  const Inputs deeper;  // more layers than there are weights
  deeper.edit_config([](Json& config) {
    config["num_hidden_layers"] = 3;
    config.erase("layer_types");
  });
  check_bad_input(2, deeper.eval(), {"missing: model.layers.2."});
}

BOOST_AUTO_TEST_CASE(indexes_that_lead_nowhere) {
  const Inputs inputs;
  const std::string index = inputs.weights + ".index.json";
  const auto write_index = [&](const std::string& file) {
    write_bytes(index, Json{{"weight_map", {{kNorm, file}}}}.dump());
  };
  std::filesystem::rename(inputs.weights, inputs.model + "/part.safetensors");
  check_bad_input(1, inputs.eval(), {inputs.model, "no weights"});
  write_index("absent.safetensors");
  check_bad_input(2, inputs.train(), {inputs.model + "/absent.safetensors"});
  write_index("../model/part.safetensors");
  check_bad_input(1, inputs.eval(), {index, "../model/part.safetensors"});
  write_bytes(index, "{}");
  check_bad_input(1, inputs.eval(), {index, "weight_map"});
  write_index("part.safetensors");
  check_runs(1, inputs.eval());
}

BOOST_AUTO_TEST_CASE(plugins_that_are_wrong) {
  const Inputs inputs;
  const std::string text = inputs.folder / "text.so", old = inputs.folder / "old.so";
  write_bytes(text, "no shared object");
  std::string bytes = read_bytes(plugin("no_register"));
  const auto descriptor = bytes.find(std::string(kPluginMagic, sizeof kPluginMagic));
  BOOST_REQUIRE(descriptor != std::string::npos);
  bytes[descriptor + offsetof(PluginDescriptor, abi_version)] = 77;
  write_bytes(old, bytes);

  check_bad_input(2, inputs.eval({"--plugin", inputs.folder / "none.so"}), {"none.so"});
  check_bad_input(1, inputs.eval({"--plugin", text}), {text, "not a shared object"});
  check_bad_input(4, inputs.train({"--plugin", old}), {old, "77"});
  check_bad_input(1, inputs.eval({"--plugin", plugin("no_descriptor")}), {"no_descriptor.so"});
  check_bad_input(2, inputs.eval({"--plugin", plugin("no_register")}),
                  {"no_register.so", "archon_register_plugin"});
  check_bad_input(1, inputs.eval({"--plugin", plugin("undefined_symbol")}),
                  {"undefined_symbol.so", "function_that_nobody_defines"});
}
