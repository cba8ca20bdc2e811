#include "archon/engine/loaded_model.hpp"

#include <functional>
#include <numeric>

namespace archon {

ShardPolicy shard_policy(at::ScalarType dtype, const MemoryOptions& memory) {
  return {.compute_dtype = dtype,
          .mode = memory.shard,
          .reshard_after_forward = memory.reshard_after_forward,
          // Tiles each give a gradient; their sum must not be rounded after every tile.
          .float32_gradients = memory.activations.mlp_tile_tokens > 0};
}

LoadedModel allocate_model(const std::string& folder, const Mesh& mesh, at::ScalarType dtype,
                           const MemoryOptions& memory) {
  LoadedModel loaded{HfConfig::read(folder), nullptr, nullptr, folder};
  loaded.spec = &ModelRegistry::instance().find(loaded.hf.model_type());
  loaded.model = loaded.spec->make_model(loaded.spec->parse_config(loaded.hf));
  loaded.spec->apply_tp(*loaded.model, mesh.tp());
  loaded.spec->apply_cp(*loaded.model, mesh.cp(), mesh.tp().size());
  loaded.model->set_activation_options(memory.activations);
  loaded.model->allocate(shard_policy(dtype, memory), mesh.shard_group());
  return loaded;
}

LoadedModel load_model(const std::string& folder, const Mesh& mesh, at::ScalarType dtype,
                       const MemoryOptions& memory) {
  const WeightFolder weights(folder);
  LoadedModel loaded = allocate_model(folder, mesh, dtype, memory);
  load_weights(*loaded.model, loaded.spec->adapter, weights);
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
