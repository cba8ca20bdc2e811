#include "archon/engine/loaded_model.hpp"

#include <functional>
#include <numeric>
#include <optional>

#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/comm/agreement.hpp"

namespace archon {

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

/// The folder of the checkpoint that `path` names, "" if it names none; the same on all ranks, even
/// while a run adds and removes checkpoints.
std::string checkpoint_of(const std::string& path, const Communicator& world) {
  std::string folder;
  check_on_rank_zero(world, [&] {
    if (const auto checkpoint = find_checkpoint(path)) folder = checkpoint->folder;
  });
  return world.broadcast(folder, 0);
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

LoadedModel allocate_model(const std::string& path, const Mesh& mesh, at::ScalarType dtype,
                           const MemoryOptions& memory) {
  const std::string checkpoint = checkpoint_of(path, mesh.world());
  LoadedModel loaded = build_model(checkpoint.empty() ? path : checkpoint, mesh, memory);
  loaded.model->allocate(shard_policy(dtype, memory, mesh.device()), mesh.shard_group());
  return loaded;
}

LoadedModel load_model(const std::string& path, const Mesh& mesh, at::ScalarType dtype,
                       const MemoryOptions& memory) {
  const std::string checkpoint = checkpoint_of(path, mesh.world());
  LoadedModel loaded = build_model(checkpoint.empty() ? path : checkpoint, mesh, memory);
  std::optional<WeightFolder> weights;
  if (checkpoint.empty()) weights.emplace(path);
  loaded.model->allocate(shard_policy(dtype, memory, mesh.device()), mesh.shard_group());
  if (weights)
    load_weights(*loaded.model, loaded.spec->adapter, *weights);
  else
    load_checkpoint(checkpoint, *loaded.model, nullptr, loaded.spec->adapter, mesh);
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
