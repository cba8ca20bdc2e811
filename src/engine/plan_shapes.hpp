#pragma once

#include <algorithm>
#include <memory>

#include "archon/engine/loaded_model.hpp"
#include "archon/engine/plan.hpp"
#include "archon/parallel/partition.hpp"
#include "archon/parallel/ulysses.hpp"

namespace archon {

/// The model of one rank, built, given its groups and placed: shapes without memory.
struct ShapeModel {
  ShapeModel(const ModelSpec& spec, const DecoderConfig& given, const RunOptions& options, int rank)
      : config(given),
        memory(options.memory),
        policy(shard_policy(options.dtype, options.memory)),
        mesh(Mesh::shape_only(options.mesh, rank)),
        sharding(policy, mesh.shard_group()),
        model(spec.make_model(config)) {
    spec.apply_tp(*model, mesh.tp());
    spec.apply_cp(*model, mesh.cp(), mesh.tp().size());
    units = model->units();
    for (ParameterUnit* unit : units) unit->place(sharding);
  }
  ShapeModel(const ShapeModel&) = delete;
  ShapeModel& operator=(const ShapeModel&) = delete;

  /// The head is the embedding, and shares its unit.
  bool tied() const { return config.tied_embeddings && !config.critic; }
  bool full() const { return sharding.policy().mode == ShardMode::full; }
  const ParameterUnit& embedding() const { return *units.front(); }
  const ParameterUnit& layer(int64_t i) const { return *units[1 + i]; }
  const ParameterUnit& last() const { return tied() ? *units.front() : *units.back(); }
  Recompute recompute(int64_t layer) const {
    return memory.activations.checkpointing.of_layer(layer);
  }
  /// Feed-forward tiles of a micro-batch of T tokens; 1 = no tiles.
  int64_t mlp_tiles(int64_t tokens) const {
    const int64_t mine = tokens / (mesh.cp().size() * mesh.tp().size());
    const int64_t tile = memory.activations.mlp_tile_tokens;
    return tile == 0 ? 1 : std::max<int64_t>(1, (mine + tile - 1) / tile);
  }
  UlyssesHeads heads() const {
    const int tp = mesh.tp().size();
    return {config.num_heads / tp, config.num_kv_heads / tp, mesh.cp().size()};
  }
  int64_t vocab_rows() const {
    return even_range(config.vocab_size, mesh.tp().size(), mesh.tp().rank()).size();
  }
  int64_t element() const { return static_cast<int64_t>(c10::elementSize(policy.compute_dtype)); }
  int64_t gradient_element() const {
    return policy.float32_gradients ? static_cast<int64_t>(sizeof(float)) : element();
  }

  DecoderConfig config;
  MemoryOptions memory;
  ShardPolicy policy;
  Mesh mesh;
  Sharding sharding;
  std::unique_ptr<Model> model;
  std::vector<ParameterUnit*> units;
};

TrafficPlan plan_traffic(const ShapeModel& shapes, const std::vector<MicroBatchShape>& batches);
MemoryPlan plan_memory(const ShapeModel& shapes, OptimizerKind optimizer, const BatchShape& batch);
/// `plan` is that of a rank with most to compute.
StepBound bound_step(const StepPlan& plan, const BatchShape& batch, const DecoderConfig& config,
                     const GpuCluster& cluster, at::ScalarType dtype);

}  // namespace archon
