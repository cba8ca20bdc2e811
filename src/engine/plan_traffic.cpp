#include "archon/loss/log_probs.hpp"
#include "plan_shapes.hpp"

namespace archon {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kNumber = 8;  // float64 or int64

/// One block of so many bytes to each other rank: what all_gather, reduce_scatter and all_to_all
/// send.
PlannedTraffic to_others(const Communicator& group, int64_t block_bytes) {
  const int64_t others = group.size() - 1;
  return {others * block_bytes, others};
}

PlannedTraffic times(int64_t count, PlannedTraffic traffic) {
  return {count * traffic.bytes, count * traffic.messages};
}

PlannedTraffic all_reduce(const Communicator& group, int64_t elements, int64_t element_size) {
  if (group.size() == 1 || elements == 0) return {};
  const int64_t bytes = elements * element_size;
  if (bytes <= Communicator::kSmallReduceBytes) return to_others(group, bytes);
  const int64_t mine = even_range(elements, group.size(), group.rank()).size() * element_size;
  PlannedTraffic sent = to_others(group, mine);     // the sums
  sent += {bytes - mine, group.size() - 1};         // the parts
  return sent;
}

/// all_gathers and reduce_scatters of one block over tp, forward, backward and in recomputation.
struct TensorParallelCalls {
  int64_t attention, mlp;
};

TensorParallelCalls tensor_parallel_calls(Recompute recompute, bool tiled) {
  // Each pair forward, and its adjoint backward.
  TensorParallelCalls calls{4, 4};
  if (recompute == Recompute::full) calls.attention += 2;
  if (recompute == Recompute::selective) calls.attention += 1;  // the sum is kept
  // What the down product gives is not needed again; but tiles run forward within the block's
  // recomputation, before each is recomputed.
  if (tiled) calls.mlp += recompute == Recompute::none ? 1 : 3;
  if (!tiled && recompute != Recompute::none) calls.mlp += 1;
  return calls;
}

void add_layer(const ShapeModel& shapes, int64_t layer, int64_t tokens, TrafficPlan& plan) {
  const Communicator &tp = shapes.mesh.tp(), &cp = shapes.mesh.cp();
  const Recompute recompute = shapes.recompute(layer);
  const int64_t slice = tokens / cp.size(), tiles = shapes.mlp_tiles(tokens);
  const int64_t token_bytes = shapes.config.hidden_size * shapes.element();
  const auto calls = tensor_parallel_calls(recompute, tiles > 1);
  const PlannedTraffic stream = to_others(tp, slice / tp.size() * token_bytes);
  plan.tp += times(calls.attention, stream);
  plan.tp.bytes += calls.mlp * stream.bytes;  // the tiles' bytes are those of the whole
  plan.tp.messages += calls.mlp * tiles * stream.messages;

  const UlyssesHeads heads = shapes.heads();
  const int64_t head_bytes = slice * shapes.config.head_dim * shapes.element();
  const int64_t runs = recompute == Recompute::none ? 2 : 3;
  plan.cp += times(runs, to_others(cp, heads.block() * head_bytes));
  plan.cp += times(runs, to_others(cp, heads.heads_per_rank() * head_bytes));
}

void add_embedding_and_loss(const ShapeModel& shapes, const MicroBatchShape& batch,
                            TrafficPlan& plan) {
  const Communicator& tp = shapes.mesh.tp();
  const int64_t stream_bytes = batch.tokens / (shapes.mesh.cp().size() * tp.size()) *
                               shapes.config.hidden_size * shapes.element();
  plan.tp += times(2, to_others(tp, stream_bytes));  // embedding
  if (shapes.config.critic) {
    plan.tp += all_reduce(tp, 1, kNumber);
    return;
  }
  plan.tp += times(2, to_others(tp, stream_bytes));  // final norm
  const int64_t targets = batch.targets[shapes.mesh.cp_rank()];
  const int64_t chunk = logit_chunk_tokens(shapes.config.hidden_size);
  constexpr int64_t kStatistics = 4;
  const PlannedTraffic statistics = to_others(tp, targets * kStatistics * kFloat);
  plan.tp.bytes += statistics.bytes;
  plan.tp.messages += (targets + chunk - 1) / chunk * statistics.messages;
}

/// Parameters gathered and gradients summed around one micro-batch.
void add_units(const ShapeModel& shapes, TrafficPlan& plan) {
  if (!shapes.sharding.sharded()) return;
  const Communicator& group = shapes.mesh.shard_group();
  for (const ParameterUnit* unit : shapes.units) {
    const bool embedding = unit == &shapes.embedding();
    // The embedding's backward needs no values, and the last unit's follow at once.
    const bool used_twice = embedding ? shapes.tied() : unit != &shapes.last();
    const int64_t gathers = used_twice && shapes.policy.reshard_after_forward ? 2 : 1;
    const int64_t reductions = embedding && shapes.tied() ? 2 : 1;
    if (shapes.full())
      plan.units += times(gathers, to_others(group, unit->block() * shapes.element()));
    plan.units += times(reductions, to_others(group, unit->block() * shapes.gradient_element()));
  }
}

/// What happens once a step, whatever the micro-batches.
void add_step(const ShapeModel& shapes, TrafficPlan& plan) {
  const Communicator &world = shapes.mesh.world(), &group = shapes.mesh.shard_group();
  plan.dp += all_reduce(shapes.mesh.dp(), 1, kNumber);  // targets
  plan.shard_group += all_reduce(group, 1, kNumber);    // loss
  plan.world += all_reduce(world, 1, kNumber);          // gradient norm
  int64_t replicated = 0;
  for (const ParameterUnit* unit : shapes.units) {
    for (const Parameter* parameter : unit->parameters()) {
      if (parameter->placement() == TpPlacement::replicated)
        replicated += parameter->local_numel();
      else if (!shapes.sharding.sharded())
        plan.shard_group += all_reduce(group, parameter->local_numel(), kFloat);
    }
    if (shapes.sharding.sharded() && !shapes.full())
      plan.units += to_others(group, unit->block() * shapes.element());
  }
  plan.world += all_reduce(world, replicated, kFloat);
}

}  // namespace

PlannedTraffic& PlannedTraffic::operator+=(const PlannedTraffic& other) {
  bytes += other.bytes;
  messages += other.messages;
  return *this;
}

std::vector<std::pair<std::string, PlannedTraffic>> TrafficPlan::by_axis() const {
  return {{"tp", tp}, {"cp", cp}, {"dp", dp}, {"shard_group", shard_group}, {"world", world}};
}

PlannedTraffic TrafficPlan::total() const {
  PlannedTraffic sum;
  for (const auto& [name, traffic] : by_axis()) sum += traffic;
  return sum;
}

TrafficPlan plan_traffic(const ShapeModel& shapes, const std::vector<MicroBatchShape>& batches) {
  TrafficPlan plan;
  for (const MicroBatchShape& batch : batches) {
    add_embedding_and_loss(shapes, batch, plan);
    for (int64_t layer = 0; layer < shapes.config.num_layers; ++layer)
      add_layer(shapes, layer, batch.tokens, plan);
    add_units(shapes, plan);
  }
  add_step(shapes, plan);
  plan.shard_group += plan.units;
  return plan;
}

}  // namespace archon
