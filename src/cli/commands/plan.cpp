#include <algorithm>
#include <iostream>
#include <optional>

#include "archon/base/error.hpp"
#include "archon/data/dataset.hpp"
#include "archon/data/sampler.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/plan.hpp"
#include "archon/io/json.hpp"
#include "archon/model/plugin_loader.hpp"
#include "command.hpp"
#include "plan_report.hpp"

namespace archon::cli {
namespace {

constexpr int kMostRanks = 1'000'000;
constexpr const char* kAddDevice = "add --device cuda, or leave it out";

std::vector<std::string> gpu_names() {
  std::vector<std::string> names;
  for (const Gpu& gpu : known_gpus()) names.push_back(gpu.name);
  return names;
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
    options.add("micro-batch-tokens", token_count(run.micro_batch_tokens, 1),
                "tokens of one micro-batch per dp rank, before slicing over cp");
    options.add("max-sequence", token_count(run.max_sequence, 0),
                "tokens of every sequence where there is no --data; 0 = --micro-batch-tokens");
    options.add("pad-limit", token_count(run.pad_limit, 1), "as in train");
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
    options.add("memory-per-rank", bytes(memory_per_rank_),
                "what each rank may use [that of the GPU, if any]");
    add_gpu_options(options);
    options.group("Other");
    options.add("json", flag(json_), "print JSON in place of tables");
    add_plugin_option(options, plugins_);
    options.add_settings_file();
  }

  void add_gpu_options(OptionSet& options) {
    options.group("Device");
    options.add("device", choice<bool>(cuda_, {{"cpu", false}, {"cuda", true}}),
                "what the ranks compute on; cuda = one GPU each, with the least time of a step");
    std::vector<std::pair<std::string, std::string>> gpus;
    for (const std::string& name : gpu_names()) gpus.emplace_back(name, name);
    options.add("gpu", choice<std::string>(gpu_, gpus),
                "--device cuda: whose published memory and peak rates to plan with");
    options.add("gpus-per-node", integer(gpus_per_node_, 1, kMostRanks),
                "GPUs that NVLink connects; ranks fill one node after the other [8]");
    options.add("nic-gbps", number(nic_gbps_, kPositive),
                "network of a node per GPU, Gbit/s each way [that of the GPU's DGX system]");
  }

  std::string details() const override {
    return fmt::format(
        "Memory is counted above what the process holds before it loads the model, and is the\n"
        "largest of any rank; traffic is what rank 0 sends in one step.\n"
        "Meshes are ranked by cost: the FLOP of the rank with most to compute, and {:.0f} for every\n"
        "byte sent. Those that do not fit in --memory-per-rank come last, the smallest first.\n"
        "--device cuda plans a rank with most to compute, in the GPU's memory, and ranks meshes by\n"
        "the least time that a step can take; docs/gpu-planning.md says what that counts. The\n"
        "compute type stays --dtype; GPUs are meant for bfloat16.",
        kFlopPerByte);
  }

  std::vector<std::pair<std::string, std::string>> examples() const override {
    return {{"archon plan --model qwen3 --dp 4 --tp 2 --dtype bfloat16", "one mesh, in detail"},
            {"archon plan --model config.json --world-size 8 --memory-per-rank 8GiB",
             "which mesh of eight ranks to take"},
            {"archon plan --model qwen3 --device cuda --gpu h100 --dtype bfloat16 --world-size 64 "
             "--max-sequence 65536",
             "which mesh of 64 GPUs, for sequences of 64K tokens"}};
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
    ARCHON_VALIDATE(train_.run.data.empty() || train_.run.max_sequence == 0,
                    "--max-sequence {} says how long sequences are without --data, which tells "
                    "their lengths itself; leave one of the two out",
                    train_.run.max_sequence);
    check_device();
    if (mesh_given()) mesh();
  }

  void check_device() const {
    ARCHON_VALIDATE(!cuda_ || !gpu_.empty(),
                    "--device cuda says nothing of the GPU, whose rates the plan needs; give --gpu "
                    "{}",
                    join_choices(gpu_names()));
    ARCHON_VALIDATE(cuda_ || !train_.run.memory.activations.offload,
                    "--activation-offload on has no meaning with --device cpu; {}", kAddDevice);
    ARCHON_VALIDATE(cuda_ || gpu_.empty(), "--gpu {} has no meaning with --device cpu; {}", gpu_,
                    kAddDevice);
    ARCHON_VALIDATE(cuda_ || gpus_per_node_ == 0,
                    "--gpus-per-node {} has no meaning with --device cpu; {}", gpus_per_node_,
                    kAddDevice);
    ARCHON_VALIDATE(cuda_ || nic_gbps_ == 0, "--nic-gbps {} has no meaning with --device cpu; {}",
                    nic_gbps_, kAddDevice);
  }

  /// Of --device cuda.
  std::optional<GpuCluster> cluster() const {
    if (!cuda_) return std::nullopt;
    const auto& gpus = known_gpus();
    GpuCluster cluster{.gpu = *std::find_if(gpus.begin(), gpus.end(), [this](const Gpu& gpu) {
      return gpu.name == gpu_;
    })};
    if (gpus_per_node_ > 0) cluster.gpus_per_node = gpus_per_node_;
    if (nic_gbps_ > 0) cluster.gpu.network_bandwidth = nic_gbps_ * 1e9 / 8;
    return cluster;
  }

  /// Bytes that a rank may use; 0 = any number.
  int64_t memory_limit() const {
    return memory_per_rank_ > 0 || !cuda_ ? memory_per_rank_ : cluster()->gpu.memory_bytes;
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
    const auto gpus = cluster();
    const StepPlan plan = gpus ? plan_gpu_step(spec, config, train_, batch, *gpus)
                               : plan_step(spec, config, train_, batch);
    if (json_)
      std::cout << to_json(plan).dump(1) << '\n';
    else
      print_plan(plan, batch);
    const MemoryPhase& peak = plan.memory.peak();
    const int64_t limit = memory_limit();
    ARCHON_VALIDATE(limit == 0 || peak.total() <= limit,
                    "{} does not fit in {} MiB per rank: it needs {} MiB, {}", to_string(plan.mesh),
                    show_mib(limit), show_mib(peak.total()), advice(peak, train_));
    return 0;
  }

  int list_meshes(const ModelSpec& spec, const DecoderConfig& config) {
    const auto gpus = cluster();
    const int64_t limit = memory_limit();
    const MeshRanking ranking = rank_meshes(spec, config, train_, lengths(config), world_size_,
                                            limit, gpus ? &*gpus : nullptr);
    if (json_)
      std::cout << to_json(ranking, limit, train_).dump(1) << '\n';
    else
      print_ranking(ranking, limit, train_);
    ARCHON_VALIDATE(ranking.choices.front().fits,
                    "no mesh of {} ranks fits in {} MiB per rank; the table says what each lacks",
                    world_size_, show_mib(limit));
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
  bool cuda_ = false;
  std::string gpu_;        // not given
  int gpus_per_node_ = 0;  // not given
  double nic_gbps_ = 0;    // not given
  int world_size_ = 0;
  int64_t memory_per_rank_ = 0;
  std::vector<std::string> plugins_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_plan() { return std::make_unique<PlanCommand>(); }

}  // namespace archon::cli
