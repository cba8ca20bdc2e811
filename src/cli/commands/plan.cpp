#include "archon/engine/plan.hpp"

#include <algorithm>
#include <iostream>

#include "archon/base/error.hpp"
#include "archon/data/dataset.hpp"
#include "archon/data/sampler.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"
#include "table.hpp"

namespace archon::cli {
namespace {

constexpr int kMostRanks = 1'000'000;

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
std::string show_mib(int64_t bytes) { return fmt::format("{:.1f}", mib(bytes)); }

// ---- one mesh -----------------------------------------------------------------------------------

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
                           show_mib(memory.peak().total()), memory.peak().name,
                           memory.largest_name, show_mib(memory.largest_bytes));
}

void print_traffic(const TrafficPlan& traffic) {
  Table table;
  table.add({"sent by rank 0 in a step", "messages", "MiB"});
  for (const auto& [axis, sent] : traffic.by_axis())
    table.add({axis, fmt::to_string(sent.messages), fmt::format("{:.3f}", mib(sent.bytes))});
  const PlannedTraffic total = traffic.total();
  table.add({"total", fmt::to_string(total.messages), fmt::format("{:.3f}", mib(total.bytes))});
  table.print(std::cout);
}

void print_plan(const StepPlan& plan, const BatchShape& batch) {
  std::cout << fmt::format("{}, {} ranks; {} micro-batches per dp rank and step\n\n",
                           to_string(plan.mesh), plan.mesh.size(), batch.front().size());
  print_memory(plan.memory);
  std::cout << '\n';
  print_traffic(plan.traffic);
}

Json to_json(const MeshShape& mesh) { return {{"dp", mesh.dp}, {"cp", mesh.cp}, {"tp", mesh.tp}}; }

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
  return {{"mesh", to_json(plan.mesh)},
          {"peak_bytes", plan.memory.peak().total()},
          {"peak_phase", plan.memory.peak().name},
          {"largest_buffer",
           {{"name", plan.memory.largest_name}, {"bytes", plan.memory.largest_bytes}}},
          {"memory", phases},
          {"traffic", traffic},
          {"flop", plan.flop}};
}

// ---- all meshes ---------------------------------------------------------------------------------

/// What a mesh spends most of its memory on, of that which can be changed, and what would help.
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
    help = "a smaller --micro-batch-tokens";
  else if (memory.shard != ShardMode::full)
    help = "--shard full";
  return fmt::format("of which {} {} MiB; try {}", to_string(most), show_mib(peak[most]), help);
}

std::string reason(const MeshChoice& choice, const MeshChoice& best, int64_t limit,
                   const TrainOptions& train) {
  const MemoryPhase& peak = choice.plan.memory.peak();
  if (!choice.fits)
    return fmt::format("does not fit: {} of {} MiB, {}", show_mib(peak.total()), show_mib(limit),
                       advice(peak, train));
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

void print_choices(const std::vector<MeshChoice>& choices, int64_t limit,
                   const TrainOptions& train) {
  Table table;
  table.add({"dp", "cp", "tp", "peak MiB", "in", "GFLOP", "sent MiB", "cost", "why"});
  for (const MeshChoice& choice : choices) {
    const MeshShape& mesh = choice.plan.mesh;
    table.add({fmt::to_string(mesh.dp), fmt::to_string(mesh.cp), fmt::to_string(mesh.tp),
               show_mib(choice.plan.memory.peak().total()), choice.plan.memory.peak().name,
               fmt::format("{:.1f}", choice.plan.flop * 1e-9),
               show_mib(choice.plan.traffic.total().bytes),
               fmt::format("{:.2f}", choice.cost / choices.front().cost),
               reason(choice, choices.front(), limit, train)});
  }
  table.print(std::cout);
}

class PlanCommand : public LocalCommand {
  void declare(OptionSet& options) override {
    RunOptions& run = train_.run;
    options.group("Model and batch");
    options.require("model", text(run.model, "DIR|FILE"),
                    "HuggingFace folder, its config.json, or checkpoint; weights are not needed");
    options.add("data", text(run.data, "FILE"),
                "HDF5 token dataset whose lengths to plan with (its first step); without it every "
                "sequence has --max-sequence tokens");
    options.add("batch-sequences", integer<int64_t>(train_.batch_sequences, 0),
                "sequences per step over all ranks; 0 = the whole file");
    options.add("micro-batch-tokens", integer<int64_t>(run.micro_batch_tokens, 1),
                "tokens of one micro-batch per dp rank, before slicing over cp");
    options.add("max-sequence", integer<int64_t>(run.max_sequence, 0),
                "tokens of every sequence where there is no --data; 0 = --micro-batch-tokens");
    options.add("pad-limit", integer<int64_t>(run.pad_limit, 1), "as in train");
    options.add("dtype", compute_dtype(run.dtype), "type the model computes in");
    add_optimizer_option(options, train_);
    add_memory_options(options, run);
    options.group("Mesh, or number of ranks");
    options.add("dp", integer(run.mesh.dp, 1, kMostRanks),
                "data-parallel ranks [the rest of --world-size, or 1]");
    options.add("cp", integer(run.mesh.cp, 1, kMostRanks), "context-parallel ranks (Ulysses) [1]");
    options.add("tp", integer(run.mesh.tp, 1, kMostRanks), "tensor-parallel ranks [1]");
    options.add("world-size", integer(world_size_, 1, kMostRanks),
                "number of ranks; without --dp, --cp and --tp all meshes of so many ranks");
    options.add("memory-per-rank", bytes(memory_per_rank_), "what each rank may use");
    options.group("Other");
    options.add("json", flag(json_), "print JSON in place of tables");
    add_plugin_option(options, plugins_);
    options.add_settings_file();
  }

  std::string details() const override {
    return fmt::format(
        "Memory is counted above what the process holds before it loads the model, and is the\n"
        "largest of any rank; traffic is what rank 0 sends in one step.\n"
        "Meshes are ranked by cost: the FLOP of the rank with most to compute, and {:.0f} for every\n"
        "byte sent. Those that do not fit in --memory-per-rank come last, the smallest first.",
        kFlopPerByte);
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon plan --model qwen3 --dp 4 --tp 2 --dtype bfloat16", "one mesh, in detail"},
            {"archon plan --model config.json --world-size 8 --memory-per-rank 8GiB",
             "which mesh of eight ranks to take"}};
  }

  bool mesh_given() const {
    const MeshShape& mesh = train_.run.mesh;
    return mesh.dp > 0 || mesh.cp > 0 || mesh.tp > 0;
  }

  void check() const override {
    check_memory_options(train_.run);
    ARCHON_VALIDATE(mesh_given() || world_size_ > 0,
                    "neither a mesh nor a number of ranks is given; give --dp, --cp and --tp, or "
                    "--world-size N");
    ARCHON_VALIDATE(!train_.run.data.empty() || train_.batch_sequences > 0,
                    "--batch-sequences 0 means the whole file, and no --data FILE is given");
    if (mesh_given()) mesh();
  }

  /// Without --dp it is the rest of --world-size.
  MeshShape mesh() const {
    MeshShape mesh = train_.run.mesh;
    for (int* axis : {&mesh.cp, &mesh.tp}) *axis = std::max(1, *axis);
    const int64_t replica = int64_t{mesh.cp} * mesh.tp;
    if (mesh.dp == 0) mesh.dp = static_cast<int>(std::max<int64_t>(1, world_size_ / replica));
    const int64_t ranks = replica * mesh.dp;
    ARCHON_VALIDATE(world_size_ == 0 || ranks == world_size_,
                    "the mesh {} has {} ranks, but --world-size is {}; give axes whose product is "
                    "{}, or leave out --dp where --cp times --tp divides it, or --world-size",
                    to_string(mesh), ranks, world_size_, world_size_);
    ARCHON_VALIDATE(ranks <= kMostRanks, "the mesh {} has {} ranks; a plan is for up to {}",
                    to_string(mesh), ranks, kMostRanks);
    return mesh;
  }

  /// Of the sequences of the first step.
  std::vector<int64_t> lengths(const DecoderConfig& config) const {
    const RunOptions& run = train_.run;
    if (run.data.empty())
      return std::vector<int64_t>(train_.batch_sequences, run.max_sequence > 0
                                                              ? run.max_sequence
                                                              : run.micro_batch_tokens);
    const TokenDataset dataset(run.data, config.vocab_size);
    std::vector<int64_t> lengths;
    for (const int64_t sequence :
         Sampler(dataset.size(), train_.batch_sequences, train_.shuffle, run.seed).batch(1))
      lengths.push_back(dataset.length(sequence));
    return lengths;
  }

  int plan_mesh(const ModelSpec& spec, const DecoderConfig& config) {
    train_.run.mesh = mesh();
    const BatchShape batch =
        shape_of_batch(lengths(config), train_.run, config, train_.run.mesh);
    const StepPlan plan = plan_step(spec, config, train_, batch);
    if (json_)
      std::cout << to_json(plan).dump(1) << '\n';
    else
      print_plan(plan, batch);
    const MemoryPhase& peak = plan.memory.peak();
    ARCHON_VALIDATE(memory_per_rank_ == 0 || peak.total() <= memory_per_rank_,
                    "{} does not fit in {} MiB per rank: it needs {} MiB, {}", to_string(plan.mesh),
                    show_mib(memory_per_rank_), show_mib(peak.total()), advice(peak, train_));
    return 0;
  }

  int list_meshes(const ModelSpec& spec, const DecoderConfig& config) {
    const auto choices =
        rank_meshes(spec, config, train_, lengths(config), world_size_, memory_per_rank_);
    ARCHON_VALIDATE(!choices.empty(),
                    "no mesh of {} ranks suits {} attention heads and {} key/value heads",
                    world_size_, config.num_heads, config.num_kv_heads);
    if (json_) {
      Json list = Json::array();
      for (const MeshChoice& choice : choices) {
        Json row = to_json(choice.plan);
        row["fits"] = choice.fits;
        row["cost"] = choice.cost;
        row["why"] = reason(choice, choices.front(), memory_per_rank_, train_);
        list.push_back(std::move(row));
      }
      std::cout << list.dump(1) << '\n';
    } else {
      print_choices(choices, memory_per_rank_, train_);
    }
    ARCHON_VALIDATE(choices.front().fits,
                    "no mesh of {} ranks fits in {} MiB per rank; the table says what each lacks",
                    world_size_, show_mib(memory_per_rank_));
    return 0;
  }

  int run() override {
    load_plugins(plugins_);
    const HfConfig hf = HfConfig::read(model_folder(train_.run.model));
    const ModelSpec& spec = ModelRegistry::instance().find(hf.model_type());
    const DecoderConfig config = spec.parse_config(hf);
    return mesh_given() ? plan_mesh(spec, config) : list_meshes(spec, config);
  }

  TrainOptions train_ = [] {
    TrainOptions train;
    train.run.mesh = {0, 0, 0};  // not given
    return train;
  }();
  int world_size_ = 0;
  int64_t memory_per_rank_ = 0;
  std::vector<std::string> plugins_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_plan() { return std::make_unique<PlanCommand>(); }

}  // namespace archon::cli
