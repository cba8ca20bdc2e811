#include "archon/engine/plan.hpp"

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/data/packing.hpp"
#include "archon/engine/flop.hpp"
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
                                     const std::vector<int64_t>& lengths, int64_t multiple,
                                     int cp) {
  MicroBatchShape shape;
  std::vector<int64_t> cu_seqlens = {0};
  for (const int64_t member : members) {
    const auto length = static_cast<double>(lengths[member]);
    cu_seqlens.push_back(cu_seqlens.back() + lengths[member]);
    shape.squared_lengths += length * length;
  }
  shape.tokens = padded_tokens(cu_seqlens.back(), multiple);
  const int64_t slice = shape.tokens / cp;
  for (int rank = 0; rank < cp; ++rank)
    shape.targets.push_back(targets_in(cu_seqlens, rank * slice, (rank + 1) * slice));
  return shape;
}

/// Of the dp rank that has most to compute: 2 per parameter of a matrix product and token forward,
/// 4 backward, 2 more where a block is recomputed; causal attention alike.
double step_flop(const ShapeModel& shapes, const BatchShape& batch) {
  const DecoderConfig& c = shapes.config;
  double layers = 0, attention = 0;
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const double passes = shapes.recompute(i) == Recompute::full ? 8 : 6;
    for (const Parameter* parameter : shapes.layer(i).parameters())
      if (parameter->placement() != TpPlacement::replicated)
        layers += passes * static_cast<double>(parameter->local_numel());
    attention += passes * static_cast<double>(c.num_heads * c.head_dim) / shapes.mesh.tp().size();
  }
  const double head = c.critic ? 0 : 6.0 * static_cast<double>(shapes.vocab_rows() * c.hidden_size);
  double most = 0;
  for (const std::vector<MicroBatchShape>& rank : batch) {
    double flop = 0;
    for (const MicroBatchShape& each : rank)
      flop += static_cast<double>(each.tokens) * (layers + head) + each.squared_lengths * attention;
    most = std::max(most, flop);
  }
  return most / shapes.mesh.cp().size();
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
      batch.back().push_back(shape_of_micro_batch(members, lengths, multiple, mesh.cp));
  }
  return batch;
}

StepPlan plan_step(const ModelSpec& spec, const DecoderConfig& config, const TrainOptions& options,
                   const BatchShape& batch, int rank) {
  const ShapeModel shapes(spec, config, options.run, rank);
  return {.mesh = options.run.mesh,
          .memory = plan_memory(shapes, options.optimizer, batch),
          .traffic = plan_traffic(shapes, batch[shapes.mesh.dp_rank()]),
          .flop = step_flop(shapes, batch)};
}

std::vector<MeshChoice> rank_meshes(const ModelSpec& spec, const DecoderConfig& config,
                                    const TrainOptions& options,
                                    const std::vector<int64_t>& lengths, int ranks,
                                    int64_t memory) {
  std::vector<MeshChoice> choices;
  TrainOptions candidate = options;
  for (int dp = 1; dp <= ranks; ++dp)
    for (int cp = 1; ranks % dp == 0 && cp <= ranks / dp; ++cp) {
      if (ranks / dp % cp != 0) continue;
      candidate.run.mesh = {dp, cp, ranks / dp / cp};
      if (!heads_allow(spec, config, candidate.run.mesh)) continue;
      const BatchShape batch = shape_of_batch(lengths, candidate.run, config, candidate.run.mesh);
      MeshChoice choice{.plan = plan_step(spec, config, candidate, batch)};
      choice.fits = memory == 0 || choice.plan.memory.peak().total() <= memory;
      choice.cost = choice.plan.flop +
                    kFlopPerByte * static_cast<double>(choice.plan.traffic.total().bytes);
      choices.push_back(std::move(choice));
    }
  std::sort(choices.begin(), choices.end(), [](const MeshChoice& a, const MeshChoice& b) {
    if (a.fits != b.fits) return a.fits;
    if (a.fits) return a.cost < b.cost;
    return a.plan.memory.peak().total() < b.plan.memory.peak().total();
  });
  return choices;
}

}  // namespace archon
