#include "archon/engine/step_bound.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "archon/engine/flop.hpp"
#include "plan_shapes.hpp"

namespace archon {
namespace {

/// Calls visit(n) for each group that has n > 0 of its ranks among [begin, end).
template <class Visit>
void for_groups_in(int begin, int end, GroupLayout groups, Visit visit) {
  const int stride = groups.stride;
  for (int rank = begin; rank < end; ++rank) {
    const int place = rank / stride % groups.size;
    const bool first = place == 0 || rank - stride < begin;
    if (first) visit(1 + std::min((end - 1 - rank) / stride, groups.size - 1 - place));
  }
}

BoundTerm exchange_term(const PlannedTraffic& sent, GroupLayout groups, Exchange exchange,
                        const MeshShape& mesh, const GpuCluster& cluster) {
  const auto bytes = static_cast<double>(sent.bytes);
  const LinkLoad load = link_load(bytes, groups, exchange, mesh.size(), cluster.gpus_per_node);
  const bool crosses = load.network > 0 && load.network / cluster.gpu.network_bandwidth >=
                                               load.nvlink / cluster.gpu.nvlink_bandwidth;
  return {.amount = bytes,
          .resource = crosses ? "network" : "NVLink",
          .seconds = load.seconds(cluster.gpu)};
}

/// Masters and moments read and written, gradients read.
double update_bytes(const MemoryPhase& optimizer) {
  return static_cast<double>(2 * (optimizer[MemoryUse::masters] + optimizer[MemoryUse::optimizer]) +
                             optimizer[MemoryUse::gradients]);
}

/// What the step is for, over the least time it takes.
void set_rates(StepBound& bound, const BatchShape& batch, const DecoderConfig& config, int gpus,
               double flops) {
  const TrainingFlop flop(config);
  double tokens = 0, model_flop = 0;
  for (const std::vector<MicroBatchShape>& rank : batch)
    for (const MicroBatchShape& each : rank) {
      tokens += static_cast<double>(each.filled);
      model_flop += flop.per_token * static_cast<double>(each.filled) +
                    flop.per_token_squared * each.squared_lengths;
    }
  const double gpu_seconds = bound.seconds() * gpus;
  bound.tokens_per_second = tokens / gpu_seconds;
  bound.mfu = model_flop / (flops * gpu_seconds);
}

/// One after the other; the resource is that of the longest.
BoundTerm sum(const std::vector<BoundTerm>& terms) {
  BoundTerm total = *std::max_element(
      terms.begin(), terms.end(),
      [](const BoundTerm& a, const BoundTerm& b) { return a.seconds < b.seconds; });
  total.amount = total.seconds = 0;
  for (const BoundTerm& term : terms) {
    total.amount += term.amount;
    total.seconds += term.seconds;
  }
  return total;
}

}  // namespace

double LinkLoad::seconds(const Gpu& gpu) const {
  return std::max(nvlink / gpu.nvlink_bandwidth, network / gpu.network_bandwidth);
}

LinkLoad link_load(double sent, GroupLayout groups, Exchange exchange, int ranks,
                   int gpus_per_node) {
  LinkLoad load;
  if (groups.size == 1) return load;
  const double block = sent / (groups.size - 1);
  for (int begin = 0; begin < ranks; begin += gpus_per_node) {
    double from_outside = 0;
    for_groups_in(begin, std::min(ranks, begin + gpus_per_node), groups, [&](int inside) {
      const int receivers = exchange == Exchange::all_to_all ? inside : 1;
      from_outside += static_cast<double>(receivers) * (groups.size - inside);
      load.nvlink = std::max(load.nvlink, (inside - 1) * block);
    });
    load.network = std::max(load.network, from_outside * block / gpus_per_node);
  }
  return load;
}

StepBound bound_step(const StepPlan& plan, const BatchShape& batch, const DecoderConfig& config,
                     const GpuCluster& cluster, at::ScalarType dtype) {
  const MeshShape& mesh = plan.mesh;
  const TrafficPlan& traffic = plan.traffic;
  const GroupLayout tp{1, mesh.tp}, cp{mesh.tp, mesh.cp}, dp{mesh.cp * mesh.tp, mesh.dp};
  const GroupLayout shard_group{mesh.tp, mesh.dp * mesh.cp}, world{1, mesh.size()};
  const auto gather = [&](const PlannedTraffic& sent, GroupLayout groups) {
    return exchange_term(sent, groups, Exchange::gather, mesh, cluster);
  };
  StepBound bound;
  bound.compute = {.amount = plan.flop,
                   .resource = fmt::format("{} {} peak", cluster.gpu.name,
                                           dtype == at::kFloat ? "float32" : "bfloat16"),
                   .seconds = plan.flop / cluster.gpu.flops(dtype)};
  bound.tp = gather(traffic.tp, tp);
  bound.cp = exchange_term(traffic.cp, cp, Exchange::all_to_all, mesh, cluster);
  bound.units = gather(traffic.units, shard_group);
  bound.sums = sum({gather({.bytes = traffic.shard_group.bytes - traffic.units.bytes}, shard_group),
                    gather(traffic.dp, dp), gather(traffic.world, world)});
  const double updated = update_bytes(plan.memory.phases.back());
  bound.update = {
      .amount = updated, .resource = "memory", .seconds = updated / cluster.gpu.memory_bandwidth};
  set_rates(bound, batch, config, mesh.size(), cluster.gpu.flops(dtype));
  return bound;
}

NamedTerms StepBound::terms() const {
  return {{"compute", compute}, {"tp", tp},     {"cp", cp},
          {"units", units},     {"sums", sums}, {"update", update}};
}

NamedTerms StepBound::critical_terms() const {
  if (units.seconds > compute.seconds + tp.seconds + cp.seconds)
    return {{"units", units}, {"sums", sums}, {"update", update}};
  return {{"compute", compute}, {"tp", tp}, {"cp", cp}, {"sums", sums}, {"update", update}};
}

double StepBound::seconds() const {
  double total = 0;
  for (const auto& [name, term] : critical_terms()) total += term.seconds;
  return total;
}

std::string StepBound::largest() const {
  const NamedTerms terms = critical_terms();
  return std::max_element(
             terms.begin(), terms.end(),
             [](const auto& a, const auto& b) { return a.second.seconds < b.second.seconds; })
      ->first;
}

}  // namespace archon
