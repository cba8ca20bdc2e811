#include "plan_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

#include "archon/io/json.hpp"
#include "table.hpp"

namespace archon::cli {
namespace {

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void print_memory(const MemoryPlan& memory) {
  std::vector<MemoryUse> used;
  for (int i = 0; i < kMemoryUses; ++i) {
    const auto use = static_cast<MemoryUse>(i);
    if (std::any_of(memory.phases.begin(), memory.phases.end(),
                    [use](const MemoryPhase& phase) { return phase[use] != 0; }))
      used.push_back(use);
  }
  Table table;
  std::vector<std::string> titles = {"memory per rank, MiB"};
  for (const MemoryUse use : used) titles.push_back(to_string(use));
  titles.push_back("total");
  table.add(titles);
  for (const MemoryPhase& phase : memory.phases) {
    std::vector<std::string> row = {phase.name};
    for (const MemoryUse use : used) row.push_back(show_mib(phase[use]));
    row.push_back(show_mib(phase.total()));
    table.add(row);
  }
  table.print(std::cout);
  std::cout << fmt::format("peak: {} MiB, in: {}; largest buffer: {}, {} MiB\n",
                           show_mib(memory.peak().total()), memory.peak().name, memory.largest_name,
                           show_mib(memory.largest_bytes));
}

void print_traffic(const StepPlan& plan) {
  const TrafficPlan& traffic = plan.traffic;
  Table table;
  table.add({plan.bound ? "sent by a busiest rank in a step" : "sent by rank 0 in a step",
             "messages", "MiB"});
  for (const auto& [axis, sent] : traffic.by_axis())
    table.add({axis, fmt::to_string(sent.messages), fmt::format("{:.3f}", mib(sent.bytes))});
  const PlannedTraffic total = traffic.total();
  table.add({"total", fmt::to_string(total.messages), fmt::format("{:.3f}", mib(total.bytes))});
  table.print(std::cout);
}

std::string show_amount(const std::string& term, double amount) {
  if (term == "compute") return fmt::format("{:.3f} TFLOP", amount * 1e-12);
  return fmt::format("{:.3f} MiB", amount / (1 << 20));
}

void print_bound(const StepBound& bound) {
  Table table;
  table.add({"least time of a step", "amount", "through", "seconds"});
  for (const auto& [name, term] : bound.terms())
    if (term.amount > 0)
      table.add({name, show_amount(name, term.amount), term.resource,
                 fmt::format("{:.6f}", term.seconds)});
  table.print(std::cout);
  std::cout << fmt::format(
      "at least {:.6f} s, most of it for {}: at most {:.1f} tokens/s on each GPU, MFU {:.3f}\n",
      bound.seconds(), bound.largest(), bound.tokens_per_second, bound.mfu);
}

Json to_json(const MeshShape& mesh) { return {{"dp", mesh.dp}, {"cp", mesh.cp}, {"tp", mesh.tp}}; }

Json to_json(const StepBound& bound) {
  Json terms = Json::object();
  for (const auto& [name, term] : bound.terms())
    terms[name] = {{"amount", term.amount}, {"through", term.resource}, {"seconds", term.seconds}};
  return {{"seconds", bound.seconds()},
          {"largest", bound.largest()},
          {"tokens_per_second", bound.tokens_per_second},
          {"mfu", bound.mfu},
          {"terms", terms}};
}

std::string reason(const MeshChoice& choice, const MeshChoice& best, int64_t limit,
                   const TrainOptions& train) {
  const MemoryPhase& peak = choice.plan.memory.peak();
  if (!choice.fits)
    return fmt::format("does not fit: {} of {} MiB, {}", show_mib(peak.total()), show_mib(limit),
                       advice(peak, train));
  if (choice.plan.bound) return fmt::format("bound by {}", choice.plan.bound->largest());
  if (&choice == &best) return "cheapest step";
  const double flop = choice.plan.flop - best.plan.flop;
  const double sent = kFlopPerByte * static_cast<double>(choice.plan.traffic.total().bytes -
                                                         best.plan.traffic.total().bytes);
  if (flop > sent) return "its busiest rank computes more";
  const auto axes = choice.plan.traffic.by_axis();
  const auto most = std::max_element(axes.begin(), axes.end(), [](const auto& a, const auto& b) {
    return a.second.bytes < b.second.bytes;
  });
  return fmt::format("sends more, most of it over {}", most->first);
}

/// What is said of how dear a step is, and its titles.
std::vector<std::string> cost_titles(bool gpus) {
  if (gpus) return {"step s", "tokens/s/GPU", "MFU"};
  return {"GFLOP", "sent MiB", "cost"};
}

std::vector<std::string> cost_cells(const MeshChoice& choice, const MeshChoice& best) {
  const StepPlan& plan = choice.plan;
  if (plan.bound)
    return {fmt::format("{:.4f}", plan.bound->seconds()),
            fmt::format("{:.1f}", plan.bound->tokens_per_second),
            fmt::format("{:.3f}", plan.bound->mfu)};
  return {fmt::format("{:.1f}", plan.flop * 1e-9), show_mib(plan.traffic.total().bytes),
          fmt::format("{:.2f}", choice.cost / best.cost)};
}

}  // namespace

std::string show_mib(int64_t bytes) { return fmt::format("{:.1f}", mib(bytes)); }

std::string advice(const MemoryPhase& peak, const TrainOptions& train) {
  MemoryUse most = MemoryUse::masters;
  for (int i = 0; i < kMemoryUses; ++i) {
    const auto use = static_cast<MemoryUse>(i);
    if (use != MemoryUse::fixed && peak[use] > peak[most]) most = use;
  }
  using Mode = ActivationCheckpointing::Mode;
  const MemoryOptions& memory = train.run.memory;
  const char* help = "more ranks";
  if (most == MemoryUse::activations && memory.activations.checkpointing.mode != Mode::full)
    help = "--activation-checkpointing full";
  else if (most == MemoryUse::activations || most == MemoryUse::working || most == MemoryUse::batch)
    help = "a smaller --micro-batch-tokens, or more cp or tp ranks";
  else if (memory.shard != ShardMode::full)
    help = "--shard full";
  return fmt::format("of which {} {} MiB; try {}", to_string(most), show_mib(peak[most]), help);
}

void print_plan(const StepPlan& plan, const BatchShape& batch) {
  std::cout << fmt::format("{}, {} ranks; {} micro-batches per dp rank and step\n\n",
                           to_string(plan.mesh), plan.mesh.size(), batch.front().size());
  print_memory(plan.memory);
  std::cout << '\n';
  print_traffic(plan);
  if (!plan.bound) return;
  std::cout << '\n';
  print_bound(*plan.bound);
}

Json to_json(const StepPlan& plan) {
  Json phases = Json::array();
  for (const MemoryPhase& phase : plan.memory.phases) {
    Json row = {{"phase", phase.name}};
    for (int i = 0; i < kMemoryUses; ++i)
      row[to_string(static_cast<MemoryUse>(i))] = phase[static_cast<MemoryUse>(i)];
    row["total"] = phase.total();
    phases.push_back(std::move(row));
  }
  Json traffic = Json::object();
  for (const auto& [axis, sent] : plan.traffic.by_axis())
    traffic[axis] = {{"messages", sent.messages}, {"bytes", sent.bytes}};
  Json json = {{"mesh", to_json(plan.mesh)},
               {"peak_bytes", plan.memory.peak().total()},
               {"peak_phase", plan.memory.peak().name},
               {"largest_buffer",
                {{"name", plan.memory.largest_name}, {"bytes", plan.memory.largest_bytes}}},
               {"memory", phases},
               {"traffic", traffic},
               {"flop", plan.flop}};
  if (plan.bound) json["bound"] = to_json(*plan.bound);
  return json;
}

void print_ranking(const MeshRanking& ranking, int64_t limit, const TrainOptions& train) {
  const MeshChoice& best = ranking.choices.front();
  Table table;
  std::vector<std::string> titles = {"dp", "cp", "tp", "peak MiB", "in"};
  for (const std::string& title : cost_titles(best.plan.bound.has_value())) titles.push_back(title);
  titles.emplace_back("why");
  table.add(titles);
  for (const MeshChoice& choice : ranking.choices) {
    const MeshShape& mesh = choice.plan.mesh;
    const MemoryPhase& peak = choice.plan.memory.peak();
    std::vector<std::string> row = {fmt::to_string(mesh.dp), fmt::to_string(mesh.cp),
                                    fmt::to_string(mesh.tp), show_mib(peak.total()), peak.name};
    for (const std::string& cell : cost_cells(choice, best)) row.push_back(cell);
    row.push_back(reason(choice, best, limit, train));
    table.add(row);
  }
  table.print(std::cout);
  if (ranking.refused > 0)
    std::cout << fmt::format("left out: {} meshes that the model's heads do not allow\n",
                             ranking.refused);
}

Json to_json(const MeshRanking& ranking, int64_t limit, const TrainOptions& train) {
  Json list = Json::array();
  for (const MeshChoice& choice : ranking.choices) {
    Json row = to_json(choice.plan);
    row["fits"] = choice.fits;
    row["cost"] = choice.cost;
    row["why"] = reason(choice, ranking.choices.front(), limit, train);
    list.push_back(std::move(row));
  }
  return list;
}

}  // namespace archon::cli
