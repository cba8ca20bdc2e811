#include "archon/engine/plan.hpp"

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/data/packing.hpp"
#include "archon/engine/flop.hpp"
#include "archon/model/ops.hpp"
#include "plan_shapes.hpp"

namespace archon {
namespace {

/// Tokens of the slice [begin, end) that have a next one in their sequence.
int64_t targets_in(const std::vector<int64_t>& cu_seqlens, int64_t begin, int64_t end) {
  int64_t targets = 0;
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i)
    targets += intersect({begin, end}, {cu_seqlens[i], cu_seqlens[i + 1] - 1}).size();
  return targets;
}

MicroBatchShape shape_of_micro_batch(const std::vector<int64_t>& members,
                                     const std::vector<int64_t>& lengths, int64_t multiple, int cp,
                                     int64_t head_dim) {
  MicroBatchShape shape;
  std::vector<int64_t> cu_seqlens = {0};
  for (const int64_t member : members) {
    const auto length = static_cast<double>(lengths[member]);
    cu_seqlens.push_back(cu_seqlens.back() + lengths[member]);
    shape.squared_lengths += length * length;
    shape.attention_bytes += attention_backward_bytes(lengths[member], head_dim);
  }
  shape.filled = cu_seqlens.back();
  shape.tokens = padded_tokens(shape.filled, multiple);
  const int64_t slice = shape.tokens / cp;
  for (int rank = 0; rank < cp; ++rank)
    shape.targets.push_back(targets_in(cu_seqlens, rank * slice, (rank + 1) * slice));
  return shape;
}

/// How often a layer's products run forward, recomputation included. Backward is twice the work.
struct ForwardRuns {
  double attention, gate_up, down;
};

ForwardRuns forward_runs(Recompute recompute, bool tiled) {
  const double full = recompute == Recompute::full ? 2 : 1;
  // What the down product gives is not needed again.
  if (!tiled) return {.attention = full, .gate_up = full, .down = 1};
  // Tiles run forward within the block's recomputation, before each is recomputed.
  if (recompute == Recompute::none) return {.attention = full, .gate_up = 2, .down = 1};
  return {.attention = full, .gate_up = 3, .down = 2};
}

/// Of one rank, on average over cp: 2 per parameter of a matrix product and token, and causal
/// attention, forward; twice as much backward. The head sees targets alone.
double micro_batch_flop(const ShapeModel& shapes, const MicroBatchShape& batch) {
  const DecoderConfig& c = shapes.config;
  const int tp = shapes.mesh.tp().size();
  const auto hidden = static_cast<double>(c.hidden_size), width = static_cast<double>(c.head_dim);
  const double heads = static_cast<double>(c.num_heads) / tp;
  const double kv_heads = static_cast<double>(c.num_kv_heads) / tp;
  const auto mlp_width = static_cast<double>(
      even_range(c.intermediate_size, tp, shapes.mesh.tp().rank()).size());
  const auto tokens = static_cast<double>(batch.tokens);
  double flop = 0;
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const ForwardRuns runs = forward_runs(shapes.recompute(i), shapes.mlp_tiles(batch.tokens) > 1);
    const double attention = 2 * tokens * hidden * width * (2 * heads + 2 * kv_heads) +
                             2 * batch.squared_lengths * heads * width;
    const double product = 2 * tokens * hidden * mlp_width;
    flop += (runs.attention + 2) * attention + (runs.gate_up + 2) * 2 * product +
            (runs.down + 2) * product;
  }
  if (!c.critic)
    for (const int64_t targets : batch.targets)
      flop += 6.0 * static_cast<double>(targets * shapes.vocab_rows() * c.hidden_size);
  return flop / shapes.mesh.cp().size();
}

/// The dp rank with most to compute, and what each of its ranks has.
std::pair<int, double> most_flop(const ShapeModel& shapes, const BatchShape& batch) {
  std::pair<int, double> most{0, -1};
  for (int dp_rank = 0; dp_rank < shapes.mesh.dp().size(); ++dp_rank) {
    double flop = 0;
    for (const MicroBatchShape& each : batch[dp_rank]) flop += micro_batch_flop(shapes, each);
    if (flop > most.second) most = {dp_rank, flop};
  }
  return most;
}

double cost(const StepPlan& plan) {
  if (plan.bound) return plan.bound->seconds();
  return plan.flop + kFlopPerByte * static_cast<double>(plan.traffic.total().bytes);
}

bool heads_allow(const ModelSpec& spec, const DecoderConfig& config, const MeshShape& mesh) {
  try {
    const auto model = spec.make_model(config);
    spec.apply_tp(*model, Communicator::shape_only(0, mesh.tp, "tp"));
    spec.apply_cp(*model, Communicator::shape_only(0, mesh.cp, "cp"), mesh.tp);
    return true;
  } catch (const InputError&) {
    return false;
  }
}

}  // namespace

BatchShape shape_of_batch(const std::vector<int64_t>& lengths, const RunOptions& options,
                          const DecoderConfig& config, const MeshShape& mesh) {
  const int64_t multiple =
      padding_multiple(config.hidden_size, static_cast<int64_t>(c10::elementSize(options.dtype)),
                       options.pad_limit, mesh.tp, mesh.cp);
  BatchShape batch;
  const TrainingFlop flop(config);
  std::vector<double> costs;
  for (const int64_t length : lengths) costs.push_back(flop.of_sequence(length));
  for (const auto& rank :
       plan_micro_batches(lengths, costs, options.micro_batch_tokens, mesh.dp)) {
    batch.emplace_back();
    for (const std::vector<int64_t>& members : rank)
      batch.back().push_back(
          shape_of_micro_batch(members, lengths, multiple, mesh.cp, config.head_dim));
  }
  return batch;
}

StepPlan plan_step(const ModelSpec& spec, const DecoderConfig& config, const TrainOptions& options,
                   const BatchShape& batch, int rank) {
  const ShapeModel shapes(spec, config, options.run, rank);
  return {.mesh = options.run.mesh,
          .memory = plan_memory(shapes, options.optimizer, batch),
          .traffic = plan_traffic(shapes, batch[shapes.mesh.dp_rank()]),
          .flop = most_flop(shapes, batch).second,
          .bound = {}};
}

StepPlan plan_gpu_step(const ModelSpec& spec, const DecoderConfig& config,
                       const TrainOptions& options, const BatchShape& batch,
                       const GpuCluster& cluster) {
  const MeshShape& mesh = options.run.mesh;
  const int dp_rank = most_flop(ShapeModel(spec, config, options.run, 0), batch).first;
  StepPlan plan = plan_step(spec, config, options, batch, dp_rank * mesh.cp * mesh.tp);
  plan.memory.leave_out_fixed();
  plan.bound = bound_step(plan, batch, config, cluster, options.run.dtype);
  return plan;
}

MeshRanking rank_meshes(const ModelSpec& spec, const DecoderConfig& config,
                        const TrainOptions& options, const std::vector<int64_t>& lengths, int ranks,
                        int64_t memory, const GpuCluster* cluster) {
  MeshRanking ranking;
  std::vector<MeshChoice>& choices = ranking.choices;
  TrainOptions candidate = options;
  for (int dp = 1; dp <= ranks; ++dp)
    for (int cp = 1; ranks % dp == 0 && cp <= ranks / dp; ++cp) {
      if (ranks / dp % cp != 0) continue;
      candidate.run.mesh = {dp, cp, ranks / dp / cp};
      if (!heads_allow(spec, config, candidate.run.mesh)) {
        ++ranking.refused;
        continue;
      }
      const BatchShape batch = shape_of_batch(lengths, candidate.run, config, candidate.run.mesh);
      MeshChoice choice{.plan = cluster == nullptr
                                    ? plan_step(spec, config, candidate, batch)
                                    : plan_gpu_step(spec, config, candidate, batch, *cluster)};
      choice.fits = memory == 0 || choice.plan.memory.peak().total() <= memory;
      choice.cost = cost(choice.plan);
      choices.push_back(std::move(choice));
    }
  std::sort(choices.begin(), choices.end(), [](const MeshChoice& a, const MeshChoice& b) {
    if (a.fits != b.fits) return a.fits;
    if (a.fits) return a.cost < b.cost;
    return a.plan.memory.peak().total() < b.plan.memory.peak().total();
  });
  return ranking;
}

}  // namespace archon
