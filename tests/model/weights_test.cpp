#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rand.h>

#include <map>

#include "archon/io/json.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/state_dict.hpp"
#include "model/fake_model.hpp"
#include "model/support.hpp"
#include "support/meshes.hpp"

namespace {

using namespace archon::test;
using archon::Communicator;
using archon::decoder_state_dict_adapter;
using archon::DecoderConfig;
using archon::HfConfig;
using archon::Mesh;
using archon::Parameter;
using archon::SafetensorsSpec;
using archon::ShardMode;
using archon::WeightFolder;

using Tensors = std::map<std::string, at::Tensor>;

int world_size() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

/// A folder that rank 0 makes and all ranks know.
struct SharedFolder {
  explicit SharedFolder(const Mesh& mesh) : mesh(mesh) {
    if (mesh.world().rank() == 0) own = std::make_unique<TempFolder>();
    path = mesh.world().broadcast(own ? own->string() : "", 0);
  }
  ~SharedFolder() { mesh.world().barrier(); }  // none may still read when rank 0 removes it
  const Mesh& mesh;
  std::unique_ptr<TempFolder> own;
  std::string path;
};

DecoderConfig config_of(const std::string& folder) {
  const HfConfig hf = HfConfig::read(folder);
  DecoderConfig architecture;
  architecture.qkv_bias = hf.model_type() == "qwen2";
  architecture.qk_norm = hf.model_type() == "qwen3";
  return archon::parse_decoder_config(hf, architecture);
}

std::unique_ptr<FakeModel> make_model(const DecoderConfig& config, const Mesh& mesh,
                                      at::ScalarType dtype = at::kFloat,
                                      ShardMode shard = ShardMode::none) {
  auto model = std::make_unique<FakeModel>(config);
  model->set_tp_group(mesh.tp());
  model->allocate({.compute_dtype = dtype, .mode = shard}, mesh.shard_group());
  return model;
}

void load(archon::Model& model, const std::string& folder) {
  archon::load_weights(model, decoder_state_dict_adapter(), WeightFolder(folder));
}

Tensors read_all(const std::string& folder) {
  const WeightFolder weights(folder);
  Tensors tensors;
  for (const std::string& name : weights.names()) tensors[name] = weights.view(name);
  return tensors;
}

void write_all(const std::string& folder, const Tensors& tensors) {
  std::vector<SafetensorsSpec> specs;
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  archon::write_safetensors_folder(
      folder, specs, 1 << 30, [&](const SafetensorsSpec& spec) { return tensors.at(spec.name); },
      true);
}

void load_and_save_keep_every_bit(const Mesh& mesh, ShardMode shard) {
  for (const char* name : {"q2_tiny_tied", "q2_critic", "q3_tiny", "q3_kv2_h8"}) {
    const std::string source = golden(name).string() + "/model";
    const auto model = make_model(config_of(source), mesh, at::kFloat, shard);
    load(*model, source);
    const SharedFolder folder(mesh);
    archon::save_hf_folder(*model, decoder_state_dict_adapter(), mesh,
                           archon::read_hf_companions(source), folder.path, at::kFloat,
                           40'000);  // bytes a file: several files
    mesh.world().barrier();
    const Tensors before = read_all(source);
    const Tensors after = read_all(folder.path);
    BOOST_TEST(after.size() == before.size());
    for (const auto& [tensor, value] : before) {
      BOOST_REQUIRE_MESSAGE(after.count(tensor) == 1, name << ": " << tensor);
      BOOST_TEST_CONTEXT(name << ": " << tensor) { BOOST_TEST(at::equal(after.at(tensor), value)); }
    }
  }
}

BOOST_AUTO_TEST_CASE(load_and_save_keep_every_bit_on_any_mesh) {
  for (const archon::MeshShape& shape : all_meshes(world_size())) {
    const Mesh mesh(shape, MPI_COMM_WORLD);
    for (const ShardMode shard : {ShardMode::none, ShardMode::optimizer, ShardMode::full})
      BOOST_TEST_CONTEXT(archon::to_string(shape) << ", shard " << static_cast<int>(shard)) {
        load_and_save_keep_every_bit(mesh, shard);
      }
  }
}

BOOST_AUTO_TEST_CASE(uneven_extents_are_gathered_whole) {
  const Mesh mesh({1, 1, world_size()}, MPI_COMM_WORLD);
  DecoderConfig config = config_of(golden("q3_tiny").string() + "/model");
  config.vocab_size = 7;
  config.intermediate_size = 5;
  config.num_heads = config.num_kv_heads = 1;  // rows in fours, over as many as 3 ranks
  config.head_dim = 4;
  const auto model = make_model(config, mesh, at::kBFloat16);
  // Every element says where it is: 100 x row + column of its part.
  for (Parameter* parameter : model->parameters()) {
    for (std::size_t part = 0; part < parameter->parts().size(); ++part) {
      const at::Tensor local =
          parameter->local_part(parameter->master().view(parameter->local_shape()), part);
      const int64_t first = parameter->tp_range(part).begin;
      for (int64_t row = 0; row < local.size(0); ++row) {
        if (local.dim() == 1) {
          local[row].fill_(static_cast<double>(row + first));
          continue;
        }
        const bool columns = parameter->tp_dim() == 1;
        for (int64_t column = 0; column < local.size(1); ++column) {
          local[row][column].fill_(static_cast<double>(100 * (row + (columns ? 0 : first)) +
                                                       column + (columns ? first : 0)));
        }
      }
    }
  }
  std::vector<std::string> seen;
  archon::for_each_whole_tensor(
      *model, decoder_state_dict_adapter(), mesh,
      [](const Parameter& parameter) { return parameter.master(); },
      [&](const std::string& name, const at::Tensor& whole) {
        seen.push_back(name);
        bool right = whole.is_contiguous();
        const at::Tensor matrix = whole.dim() == 1 ? whole.unsqueeze(1) : whole;
        for (int64_t row = 0; row < matrix.size(0); ++row) {
          for (int64_t column = 0; column < std::min<int64_t>(matrix.size(1), 9); ++column) {
            const double wanted = static_cast<double>(whole.dim() == 1 ? row : 100 * row + column);
            right = right && matrix[row][column].item<double>() == wanted;
          }
        }
        BOOST_TEST_CONTEXT(name) { BOOST_TEST(right); }
      });
  BOOST_TEST(seen.size() == 25u);
  BOOST_TEST(seen.front() == "model.embed_tokens.weight");
  BOOST_TEST(seen[2] == "model.layers.0.self_attn.q_proj.weight");
  BOOST_TEST(seen.back() == "lm_head.weight");
}

BOOST_AUTO_TEST_CASE(saving_updates_the_type_and_copies_the_tokenizer) {
  const Mesh mesh({world_size(), 1, 1}, MPI_COMM_WORLD);  // all but one rank have nothing to do
  const SharedFolder source(mesh);
  const SharedFolder folder(mesh);
  const std::string golden_model = golden("q2_tiny_tied").string() + "/model";
  if (mesh.world().rank() == 0) {
    archon::Json json = HfConfig::read(golden_model).json();
    json.erase("dtype");
    json["torch_dtype"] = "float32";  // the dialect of transformers 4
    write_bytes(fs::path(source.path) / "config.json", json.dump());
    write_bytes(fs::path(source.path) / "tokenizer.json", "{\"a\": 1}");
    write_bytes(fs::path(source.path) / "merges.txt", "a b\n");
    write_bytes(fs::path(source.path) / "notes.txt", "not part of a model");
  }
  mesh.world().barrier();
  const archon::HfCompanions companions = archon::read_hf_companions(source.path);
  mesh.world().barrier();
  if (mesh.world().rank() == 0) fs::remove_all(source.path);  // a save does not need it
  const auto model = make_model(config_of(golden_model), mesh);
  load(*model, golden_model);
  archon::save_hf_folder(*model, decoder_state_dict_adapter(), mesh, companions, folder.path,
                         at::kBFloat16, 1 << 30);
  mesh.world().barrier();

  const archon::Json json = HfConfig::read(folder.path).json();
  BOOST_TEST(json.at("torch_dtype") == "bfloat16");
  BOOST_TEST(!json.contains("dtype"));
  BOOST_TEST(json.at("hidden_size") == 64);
  BOOST_TEST(read_bytes(fs::path(folder.path) / "tokenizer.json") == "{\"a\": 1}");
  BOOST_TEST(read_bytes(fs::path(folder.path) / "merges.txt") == "a b\n");
  BOOST_TEST(!fs::exists(fs::path(folder.path) / "notes.txt"));
  const Tensors before = read_all(golden_model);
  for (const auto& [name, tensor] : read_all(folder.path)) {
    BOOST_TEST((tensor.scalar_type() == at::kBFloat16));
    BOOST_TEST(at::equal(tensor, before.at(name).to(at::kBFloat16)));
  }
}

BOOST_AUTO_TEST_CASE(the_other_dialect_and_other_types) {
  const TempFolder folder;
  const std::string source = golden("q2_tiny_tied").string() + "/model";
  const Mesh mesh = Mesh::self();
  const auto model = make_model(config_of(source), mesh);
  load(*model, source);
  const auto save = [&](at::ScalarType dtype) {
    archon::save_hf_folder(*model, decoder_state_dict_adapter(), mesh,
                           archon::read_hf_companions(source), folder.string(), dtype, 1 << 30);
  };
  save(at::kHalf);
  BOOST_TEST(HfConfig::read(folder.string()).json().at("dtype") == "float16");
  BOOST_TEST(!HfConfig::read(folder.string()).json().contains("torch_dtype"));
  check_throws<archon::RuntimeFailure>([&] { save(at::kDouble); }, {"Double"});
}

/// A golden folder's tensors, changed by `change`, written and loaded into a model of its config.
template <class Change>
void load_changed(const std::string& name, Change change, at::ScalarType dtype = at::kFloat,
                  const std::function<void(FakeModel&, const Tensors&)>& look = {}) {
  const Mesh mesh({1, 1, world_size()}, MPI_COMM_WORLD);
  const TempFolder folder;  // each rank has its own
  const std::string source = golden(name).string() + "/model";
  Tensors tensors = read_all(source);
  change(tensors);
  write_all(folder.string(), tensors);
  const auto model = make_model(config_of(source), mesh, dtype);
  load(*model, folder.string());
  if (look) look(*model, tensors);
}

BOOST_AUTO_TEST_CASE(all_that_does_not_fit_is_told_at_once) {
  check_throws(
      [] {
        load_changed("q3_tiny", [](Tensors& tensors) {
          tensors.erase("model.norm.weight");
          tensors.erase("model.layers.1.self_attn.q_norm.weight");
          tensors["model.layers.2.mlp.up_proj.weight"] = at::ones({96, 48});
          tensors["score.bias"] = at::ones({1});
          tensors["model.layers.0.mlp.down_proj.weight"] = at::ones({48, 95});
          tensors["lm_head.weight"] = at::ones({256, 48}, at::kInt);
        });
      },
      {"missing: model.norm.weight, model.layers.1.self_attn.q_norm.weight",
       "unexpected: model.layers.2.mlp.up_proj.weight, score.bias",
       "model.layers.0.mlp.down_proj.weight [48, 95], the model needs [48, 96]",
       "lm_head.weight (Int)"});
}

BOOST_AUTO_TEST_CASE(long_lists_are_cut) {
  check_throws(
      [] {
        load_changed("q3_tiny", [](Tensors& tensors) {
          for (int i = 0; i < 25; ++i) tensors["extra." + std::to_string(i)] = at::ones({1});
        });
      },
      {"unexpected: extra.0, ", "and 15 more"});
}

BOOST_AUTO_TEST_CASE(two_names_for_one_parameter_are_refused) {
  check_throws(
      [] {
        load_changed("q3_tiny", [](Tensors& tensors) {
          tensors["model._orig_mod.norm.weight"] = at::ones({48});
        });
      },
      {"unexpected: model.norm.weight"});
}

BOOST_AUTO_TEST_CASE(a_tied_head_in_the_file_must_equal_the_embedding) {
  load_changed("q2_tiny_tied", [](Tensors& tensors) {
    tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight").clone();
  });
  const auto refused = [](const at::Tensor& head) {
    check_throws(
        [&] {
          load_changed("q2_tiny_tied", [&](Tensors& tensors) { tensors["lm_head.weight"] = head; });
        },
        {"lm_head.weight", "model.embed_tokens.weight", "tie_word_embeddings"});
  };
  refused(at::rand({256, 64}));
  refused(at::rand({255, 64}));
  refused(at::rand({256, 64}, at::kDouble));
}

BOOST_AUTO_TEST_CASE(a_head_that_the_model_lacks_is_unexpected) {
  check_throws(
      [] {
        load_changed("q2_critic", [](Tensors& tensors) {
          tensors["lm_head.weight"] = tensors.at("model.embed_tokens.weight").clone();
        });
      },
      {"unexpected: lm_head.weight"});
}

BOOST_AUTO_TEST_CASE(stored_types_are_converted_to_float32_masters) {
  for (const at::ScalarType stored : {at::kBFloat16, at::kHalf, at::kDouble}) {
    load_changed(
        "q3_tiny",
        [&](Tensors& tensors) {
          for (auto& [name, tensor] : tensors) tensor = tensor.to(stored);
        },
        at::kBFloat16,
        [](FakeModel& model, const Tensors& tensors) {
          for (const Parameter* parameter : model.parameters()) {
            BOOST_TEST(
                at::equal(parameter->value().detach().view({-1}), parameter->master().to(at::kBFloat16)));
          }
          const Parameter& embedding = *model.parameters().front();
          const archon::Range rows = embedding.tp_range(0);
          BOOST_TEST(at::equal(embedding.master().view({-1, 48}), tensors.at("model.embed_tokens.weight")
                                                       .narrow(0, rows.begin, rows.size())
                                                       .to(at::kFloat)));
        });
  }
}

}  // namespace
