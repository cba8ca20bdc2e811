#include "archon/model/registry.hpp"

#include "model/fake_model.hpp"
#include "model/support.hpp"

namespace {

using namespace archon::test;
using archon::Communicator;
using archon::DecoderConfig;
using archon::HfConfig;
using archon::ModelRegistry;
using archon::ModelSpec;

ModelSpec spec(const std::string& model_type, const std::string& plugin = "") {
  ModelSpec spec = archon::decoder_model_spec(
      model_type, [](const HfConfig& hf) { return archon::parse_decoder_config(hf); });
  spec.plugin = plugin;
  return spec;
}

BOOST_AUTO_TEST_CASE(types_are_found_with_their_plugin) {
  ModelRegistry registry;
  registry.add(spec("one", "/plugins/one.so"));
  registry.add(spec("two", "/plugins/two.so"));
  BOOST_TEST(registry.find("one").plugin == "/plugins/one.so");
  BOOST_TEST(registry.find("two").plugin == "/plugins/two.so");
  BOOST_TEST(registry.all().size() == 2u);
  BOOST_TEST(registry.all().front()->model_type == "one");
}

BOOST_AUTO_TEST_CASE(unknown_types_list_the_known_ones) {
  ModelRegistry registry;
  check_throws([&] { registry.find("llama"); }, {"\"llama\"", "known: none", "--plugin"});
  registry.add(spec("one"));
  registry.add(spec("two"));
  check_throws([&] { registry.find("llama"); }, {"\"llama\"", "one, two"});
}

BOOST_AUTO_TEST_CASE(a_type_registered_twice_names_both_plugins) {
  ModelRegistry registry;
  registry.add(spec("one", "/plugins/one.so"));
  check_throws([&] { registry.add(spec("one", "/plugins/other.so")); },
               {"\"one\"", "/plugins/one.so", "/plugins/other.so"});
  BOOST_TEST(registry.find("one").plugin == "/plugins/one.so");
}

BOOST_AUTO_TEST_CASE(incomplete_specs_are_refused) {
  ModelRegistry registry;
  check_throws([&] { registry.add(ModelSpec{}); }, {"decoder_model_spec"});
  ModelSpec without_parser = spec("one");
  without_parser.parse_config = nullptr;
  check_throws([&] { registry.add(without_parser); }, {"\"one\""});
  BOOST_TEST(registry.all().empty());
}

BOOST_AUTO_TEST_CASE(hooks_check_heads_and_hand_over_groups) {
  DecoderConfig config;
  config.hidden_size = 8;
  config.intermediate_size = 8;
  config.vocab_size = 8;
  config.num_layers = 1;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 2;
  FakeModel model(config);
  const ModelSpec decoder = spec("one");
  decoder.apply_tp(model, Communicator::self());
  BOOST_TEST(model.tp_size == 1);
  decoder.apply_cp(model, Communicator::self(), 2);
  BOOST_TEST(model.cp_size == 1);
  model.cp_size = 0;
  check_throws([&] { decoder.apply_cp(model, Communicator::self(), 3); }, {"--tp 3"});
  BOOST_TEST(model.cp_size == 0);
}

BOOST_AUTO_TEST_CASE(a_model_is_allocated_at_its_dtype) {
  DecoderConfig config;
  config.hidden_size = config.intermediate_size = config.vocab_size = 8;
  config.num_layers = 1;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 4;
  FakeModel model(config);
  model.allocate({.compute_dtype = at::kBFloat16}, Communicator::self());
  const archon::Model& constant = model;
  BOOST_TEST(constant.parameters().size() == model.parameters().size());
  for (const archon::Parameter* parameter : constant.parameters()) {
    BOOST_TEST(parameter->allocated());
    BOOST_TEST((parameter->value().scalar_type() == at::kBFloat16));
  }
}

}  // namespace
