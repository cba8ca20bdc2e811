#include "archon/engine/loaded_model.hpp"

#include <filesystem>
#include <functional>
#include <numeric>
#include <optional>
#include <system_error>

#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace fs = std::filesystem;

ShardPolicy shard_policy(at::ScalarType dtype, const MemoryOptions& memory, at::Device device) {
  return {.compute_dtype = dtype,
          .device = device,
          .mode = memory.shard,
          .reshard_after_forward = memory.reshard_after_forward,
          // Tiles each give a gradient; their sum must not be rounded after every tile.
          .float32_gradients = memory.activations.mlp_tile_tokens > 0,
          .overlap = memory.overlap};
}

std::string model_folder(const std::string& path) {
  const auto checkpoint = find_checkpoint(path);
  return checkpoint ? checkpoint->folder : path;
}

namespace {

/// The folder of a model, and whether it is a checkpoint.
struct Source {
  std::string folder;
  bool checkpoint = false;
};

/// Links may move before their folder is read, and while it is. Messages name what was given: a
/// path without links, and one that leads nowhere, stay as they are; so does one that leads to a
/// name that is no UTF-8, which no checkpoint could hold.
std::string without_links(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  const bool same = real / "" == (fs::absolute(path) / "").lexically_normal();
  return error || same || !is_utf8(real.string()) ? path : real.string();
}

/// The same on all ranks, even while a run adds and removes what `path` may name.
Source find_source(const std::string& path, const Communicator& world) {
  Source source;
  check_on_rank_zero(world, [&] {
    const auto checkpoint = find_checkpoint(path);
    source = {without_links(checkpoint ? checkpoint->folder : path), checkpoint.has_value()};
  });
  return {world.broadcast(source.folder, 0),
          world.all_reduce(int64_t{source.checkpoint}, ReduceOp::max) == 1};
}

/// The model as shapes.
LoadedModel build_model(const std::string& folder, const Mesh& mesh, const MemoryOptions& memory) {
  LoadedModel loaded{{HfConfig::read(folder), {}}, nullptr, nullptr, folder};
  loaded.spec = &ModelRegistry::instance().find(loaded.hf.config.model_type());
  loaded.model = loaded.spec->make_model(loaded.spec->parse_config(loaded.hf.config));
  loaded.spec->apply_tp(*loaded.model, mesh.tp());
  loaded.spec->apply_cp(*loaded.model, mesh.cp(), mesh.tp().size());
  loaded.model->set_activation_options(memory.activations, mesh.gpu());
  return loaded;
}

}  // namespace

std::string model_folder(const std::string& path, const Communicator& world) {
  return find_source(path, world).folder;
}

DecoderConfig read_decoder_config(const std::string& path) {
  const HfConfig hf = HfConfig::read(model_folder(path));
  return ModelRegistry::instance().find(hf.model_type()).parse_config(hf);
}

LoadedModel allocate_model(const std::string& path, const Mesh& mesh, at::ScalarType dtype,
                           const MemoryOptions& memory) {
  LoadedModel loaded = build_model(find_source(path, mesh.world()).folder, mesh, memory);
  loaded.model->allocate(shard_policy(dtype, memory, mesh.device()), mesh.shard_group());
  return loaded;
}

LoadedModel load_model(const std::string& path, const Mesh& mesh, at::ScalarType dtype,
                       const MemoryOptions& memory) {
  const Source source = find_source(path, mesh.world());
  LoadedModel loaded = build_model(source.folder, mesh, memory);
  std::optional<WeightFolder> weights;
  if (!source.checkpoint) weights.emplace(source.folder);
  loaded.model->allocate(shard_policy(dtype, memory, mesh.device()), mesh.shard_group());
  if (weights)
    load_weights(*loaded.model, loaded.spec->adapter, *weights);
  else
    load_checkpoint(source.folder, *loaded.model, nullptr, loaded.spec->adapter, mesh);
  return loaded;
}

int64_t count_parameters(const Model& model) {
  int64_t total = 0;
  for (const Parameter* parameter : model.parameters())
    for (const ParameterPart& part : parameter->parts())
      total +=
          std::accumulate(part.shape.begin(), part.shape.end(), int64_t{1}, std::multiplies<>());
  return total;
}

}  // namespace archon
