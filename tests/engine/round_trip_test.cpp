// HuggingFace folder -> Archon -> HuggingFace folder: every tensor, bit by bit, for every model
// type that the plugins of this build register.
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <boost/test/unit_test.hpp>
#include <regex>

#include "archon/engine/loaded_model.hpp"
#include "archon/io/json.hpp"
#include "support/model_cases.hpp"
#include "support/mpi_main.hpp"
#include "support/shared_folder.hpp"

using namespace archon;
using namespace archon::test;

namespace {

struct Case {
  std::string model_type;
  bool tied;
  at::ScalarType dtype;
  int64_t vocab_size;     // rows of the embedding, whatever a tokenizer has
  bool compiled = false;  // names as torch.compile leaves them
};

std::ostream& operator<<(std::ostream& out, const Case& example) {
  return out << example.model_type << (example.tied ? ", tied, " : ", untied, ") << example.dtype
             << ", vocabulary of " << example.vocab_size << (example.compiled ? ", _orig_mod" : "");
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const ModelSpec* spec : ModelRegistry::instance().all())
    for (const bool tied : {true, false})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
        for (const int64_t vocab_size : {96, 101})  // which two tp ranks share evenly, or not
          cases.push_back({spec->model_type, tied, dtype, vocab_size});
  cases.push_back({"qwen3", false, at::kFloat, 96, /*compiled=*/true});
  return cases;
}

Json config_of(const Case& example) {
  return {{"model_type", example.model_type},
          {"architectures", {"ModelForCausalLM"}},
          {"vocab_size", example.vocab_size},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4},
          {"head_dim", 4},
          {"tie_word_embeddings", example.tied},
          {"dtype", example.dtype == at::kFloat ? "float32" : "bfloat16"}};
}

/// A folder whose tensors, biases and norms too, are numbers without a pattern.
void write_source(const Case& example, const std::string& folder) {
  std::filesystem::create_directories(folder);
  write_bytes(folder + "/config.json", config_of(example).dump());
  const ModelSpec& spec = ModelRegistry::instance().find(example.model_type);
  const auto model = spec.make_model(spec.parse_config(HfConfig::read(folder)));
  auto specs = tensors_of(*model, spec.adapter, example.dtype);
  for (SafetensorsSpec& tensor : specs)
    if (example.compiled)
      tensor.name =
          std::regex_replace(tensor.name, std::regex(R"((layers\.\d+)\.)"), "$1._orig_mod.");
  write_safetensors_folder(
      folder, specs, 1 << 30,
      [](const SafetensorsSpec& tensor) { return at::randn(tensor.shape).to(tensor.dtype); },
      /*write=*/true);
}

void check_equal(const std::string& source, const std::string& result) {
  const WeightFolder before(source), after(result);
  BOOST_CHECK_EQUAL(before.names().size(), after.names().size());
  for (const std::string& name : before.names()) {
    const std::string plain = std::regex_replace(name, std::regex(R"(\._orig_mod)"), "");
    BOOST_REQUIRE_MESSAGE(after.has(plain), plain << " is lost");
    const at::Tensor a = before.view(name), b = after.view(plain);
    BOOST_CHECK_EQUAL(a.scalar_type(), b.scalar_type());
    BOOST_CHECK_MESSAGE(at::equal(a, b), plain << " differs");
  }
  const Json config = HfConfig::read(result).json();
  BOOST_CHECK_EQUAL(config, HfConfig::read(source).json());
}

BOOST_GLOBAL_FIXTURE(LoadedPlugins);

}  // namespace

BOOST_AUTO_TEST_CASE(every_tensor_comes_back_bit_by_bit) {
  const bool alone = test_environment().world_size() == 1;
  const Mesh mesh(alone ? MeshShape{1, 1, 1} : MeshShape{2, 2, 2}, MPI_COMM_WORLD);
  const auto cases = all_cases();
  BOOST_REQUIRE_GE(cases.size(), 2 * 2 * 2 * 2u);
  for (const Case& example : cases) BOOST_TEST_CONTEXT(example) {
      const SharedFolder folder(mesh.world());
      const std::string source = folder.path() + "/source", result = folder.path() + "/result";
      if (mesh.world().rank() == 0) write_source(example, source);
      mesh.world().barrier();
      const LoadedModel loaded = load_model(source, mesh, example.dtype);
      save_hf_folder(*loaded.model, loaded.spec->adapter, mesh, loaded.hf, result,
                     loaded.model->config().stored_dtype, 1 << 30);
      if (mesh.world().rank() == 0) check_equal(source, result);
    }
}
