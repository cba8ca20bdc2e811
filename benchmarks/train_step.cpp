// The engine's training step on packed synthetic sequences, against what this machine's matrix
// products reach with the same threads just before and after each step.
//
//   [mpiexec -n N] bench_train_step [--config FILE] [--dtype float32|bfloat16] [--dp D] [--cp C]
//       [--tp T] [--shard none|optimizer|full] [--overlap on|off]
//       [--activation-checkpointing none|full|selective]
//       [--device cpu|cuda] [--tokens N] [--lengths N,N,...] [--steps N] [--warmup N] [--threads N]
//       [--json FILE]
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <ATen/Parallel.h>
#include <boost/program_options.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <numeric>
#include <optional>
#include <sstream>

#include "archon/base/activity.hpp"
#include "archon/base/error.hpp"
#include "archon/base/memory.hpp"
#include "archon/engine/flop.hpp"
#include "archon/engine/gemm_peak.hpp"
#include "archon/engine/run.hpp"
#include "archon/engine/step_meter.hpp"
#include "archon/engine/train_step.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/mesh/topology.hpp"
#include "archon/model/plugin_loader.hpp"
#include "measure.hpp"

namespace fs = std::filesystem;
namespace po = boost::program_options;
using namespace archon;
using namespace archon::benchmarks;

namespace {

constexpr uint64_t kSeed = 7;
constexpr double kPeakSeconds = 0.5;  // for each kind of product
constexpr int64_t kPeakSize = 2048, kGpuPeakSize = 8192;

struct Settings {
  std::string config, dtype, shard, overlap, checkpointing, device, lengths, json;
  MeshShape mesh;
  int64_t tokens = 0;  // per dp rank
  int steps = 0, warmup = 0, threads = 0;
  bool help = false;

  at::ScalarType compute_dtype() const {
    ARCHON_VALIDATE(dtype == "float32" || dtype == "bfloat16",
                    "--dtype {} is no compute type; choose float32 or bfloat16", dtype);
    return dtype == "float32" ? at::kFloat : at::kBFloat16;
  }
  DeviceChoice device_choice() const {
    ARCHON_VALIDATE(device == "cpu" || device == "cuda", "--device {}; choose cpu or cuda", device);
    return device == "cpu" ? DeviceChoice::cpu : DeviceChoice::cuda;
  }
  MemoryOptions memory() const {
    const std::map<std::string, ShardMode> modes = {
        {"none", ShardMode::none}, {"optimizer", ShardMode::optimizer}, {"full", ShardMode::full}};
    using Mode = ActivationCheckpointing::Mode;
    const std::map<std::string, Mode> checkpointings = {
        {"none", Mode::none}, {"full", Mode::full}, {"selective", Mode::selective}};
    ARCHON_VALIDATE(modes.contains(shard), "--shard {}; choose none, optimizer or full", shard);
    ARCHON_VALIDATE(checkpointings.contains(checkpointing),
                    "--activation-checkpointing {}; choose none, full or selective", checkpointing);
    ARCHON_VALIDATE(overlap == "on" || overlap == "off", "--overlap {}; choose on or off", overlap);
    return {.shard = modes.at(shard),
            .activations = {.checkpointing = {.mode = checkpointings.at(checkpointing)}},
            .overlap = overlap == "on"};
  }
};

Settings parse(int argc, char** argv) {
  Settings s;
  po::options_description options("Options");
  // clang-format off
  options.add_options()
    ("help", po::bool_switch(&s.help), "this text")
    ("config", po::value(&s.config)->default_value(ARCHON_DEFAULT_CONFIG), "HuggingFace config.json")
    ("dtype", po::value(&s.dtype)->default_value("float32"), "float32 or bfloat16")
    ("dp", po::value(&s.mesh.dp)->default_value(-1), "data parallelism")
    ("cp", po::value(&s.mesh.cp)->default_value(1), "context parallelism")
    ("tp", po::value(&s.mesh.tp)->default_value(1), "tensor parallelism")
    ("shard", po::value(&s.shard)->default_value("full"), "none, optimizer or full")
    ("overlap", po::value(&s.overlap)->default_value("on"),
     "off: no gather and no sum of gradients while something is computed")
    ("activation-checkpointing", po::value(&s.checkpointing)->default_value("none"),
     "none, full or selective")
    ("device", po::value(&s.device)->default_value("cpu"), "cpu, or cuda: a GPU for each rank")
    ("tokens", po::value(&s.tokens)->default_value(2048), "tokens per data-parallel rank and step")
    ("lengths", po::value(&s.lengths)->default_value("512,384,128,1024"),
     "of the sequences that the tokens are cut into, in turn")
    ("steps", po::value(&s.steps)->default_value(5), "steps that count")
    ("warmup", po::value(&s.warmup)->default_value(2), "steps before them")
    ("threads", po::value(&s.threads)->default_value(0), "threads per rank, 0: its share of the cores")
    ("json", po::value(&s.json), "write the result there as well");
  // clang-format on
  po::variables_map values;
  po::store(po::parse_command_line(argc, argv, options), values);
  po::notify(values);
  if (s.help) std::cout << options;
  return s;
}

std::vector<int64_t> parse_lengths(const std::string& list) {
  std::vector<int64_t> lengths;
  std::istringstream stream(list);
  for (std::string length; std::getline(stream, length, ',');) {
    lengths.push_back(std::atoll(length.c_str()));
    ARCHON_VALIDATE(lengths.back() > 0, "--lengths {}: '{}' is no length of a sequence", list,
                    length);
  }
  ARCHON_VALIDATE(!lengths.empty(), "--lengths is empty; give at least one length");
  return lengths;
}

std::vector<int64_t> cycle_lengths(const std::vector<int64_t>& cycle, int64_t tokens) {
  std::vector<int64_t> lengths;
  for (std::size_t i = 0; tokens > 0; ++i) {
    lengths.push_back(std::min(cycle[i % cycle.size()], tokens));
    tokens -= lengths.back();
  }
  return lengths;
}

/// Output `index` of the splitmix64 generator (Steele et al. 2014) started at 0.
uint64_t splitmix(uint64_t index) {
  uint64_t z = (index + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

/// The same sequence lengths for every dp rank, other tokens.
void write_dataset(const std::string& path, const std::vector<int64_t>& lengths, int dp,
                   int64_t vocab_size) {
  std::vector<int64_t> ids, offsets = {0};
  for (int replica = 0; replica < dp; ++replica) {
    const uint64_t base = (kSeed << 40) + (static_cast<uint64_t>(replica) << 32);
    const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    for (int64_t i = 0; i < tokens; ++i)
      ids.push_back(static_cast<int64_t>(splitmix(base + i) % vocab_size));
    for (const int64_t length : lengths) offsets.push_back(offsets.back() + length);
  }
  h5::File file = h5::File::create(path, "token_dataset", 1);
  file.write("input_ids", at::tensor(ids));
  file.write("cu_seqlens", at::tensor(offsets));
  file.flush();
}

struct Measured {
  std::vector<double> step, peak;     // seconds; GFLOP/s (one more)
  std::vector<double> communication;  // of step: seconds in collectives, waiting for them included
  std::vector<double> progress;       // processor seconds of the thread that moves transfers on
  double first_loss = 0, last_loss = 0;
  int64_t faults = 0;  // per step
  int64_t memory = 0;  // most bytes after the warm-up: of the process, or of tensors on the GPU
};

/// Seconds of this process so far.
struct Spent {
  double communication, progress;
};
Spent spent() {
  return {activity_seconds()[static_cast<std::size_t>(Activity::communication)],
          thread_cpu_seconds("archon-progress")};
}

TrainOptions train_options(const Settings& settings, const std::string& data) {
  TrainOptions options;
  options.run.data = data;
  options.run.dtype = settings.compute_dtype();
  options.run.memory = settings.memory();
  options.run.micro_batch_tokens = settings.tokens;
  options.clip_grad_norm = 0;
  return options;
}

Measured measure(const Settings& settings, const TrainOptions& options, const LoadedModel& loaded,
                 const Mesh& mesh) {
  const Batcher batcher(options.run, options.run.data, loaded.model->config(), mesh);
  const auto optimizer = make_optimizer(options, *loaded.model, loaded.spec->adapter);
  std::vector<int64_t> sequences(batcher.dataset().size());
  std::iota(sequences.begin(), sequences.end(), 0);
  const Objective objective(options.loss);
  const at::Device device = mesh.device();
  std::optional<GemmPeak> peak;
  Measured result;
  for (int step = -settings.warmup; step < settings.steps; ++step) {
    if (step == 0) {
      result.memory = peak_memory_of(mesh);
      peak.emplace(options.run.dtype, device.is_cpu() ? kPeakSize : kGpuPeakSize, device);
      result.peak.push_back(peak->measure(mesh.world(), kPeakSeconds));
    }
    const int64_t faults = minor_faults();
    const Spent before = spent();
    StepResult done;
    const auto take_step = [&] {
      done = train_step(options, objective, loaded, mesh, batcher, *optimizer, sequences, 1e-3,
                        nullptr);
    };
    const double time = seconds(mesh.world(), take_step, device);
    if (step == -settings.warmup) result.first_loss = done.loss;
    result.last_loss = done.loss;
    if (step < 0) continue;
    result.faults += (minor_faults() - faults) / settings.steps;
    result.step.push_back(time);
    const Spent after = spent();
    const auto largest = [&](double mine) { return mesh.world().all_reduce(mine, ReduceOp::max); };
    result.communication.push_back(largest(after.communication - before.communication));
    result.progress.push_back(largest(after.progress - before.progress));
    result.peak.push_back(peak->measure(mesh.world(), kPeakSeconds));
  }
  return result;
}

Json report(const Settings& settings, const Mesh& mesh, const Measured& measured, double flop,
            int64_t parameters, int64_t start) {
  const int64_t tokens = settings.tokens * mesh.shape().dp;
  std::vector<double> rates, shares, peaks;
  for (std::size_t i = 0; i < measured.step.size(); ++i) {
    rates.push_back(flop * 1e-9 / measured.step[i]);
    peaks.push_back((measured.peak[i] + measured.peak[i + 1]) / 2);
    shares.push_back(rates.back() / peaks.back());
  }
  const auto largest_mib = [&](int64_t bytes) {
    return static_cast<double>(mesh.world().all_reduce(bytes, ReduceOp::max)) / (1 << 20);
  };
  return {{"model", fs::path(settings.config).stem().string()},
          {"dtype", settings.dtype},
          {"mesh", to_string(mesh.shape())},
          {"threads_per_rank", at::get_num_threads()},
          {"parameters", parameters},
          {"tokens_per_step", tokens},
          {"shard", settings.shard},
          {"overlap", settings.overlap},
          {"step_s", to_json(summarize(measured.step))},
          {"communication_s", to_json(summarize(measured.communication))},
          {"progress_thread_cpu_s", to_json(summarize(measured.progress))},
          {"tokens_per_s", static_cast<double>(tokens) / summarize(measured.step).median},
          {"gflops", to_json(summarize(rates))},
          {"gemm_peak_gflops", to_json(summarize(peaks))},
          {"share_of_peak", to_json(summarize(shares))},
          {"minor_faults_per_step", measured.faults},
          {"device", settings.device},
          {"peak_memory_mib", largest_mib(measured.memory)},
          {"memory_at_start_mib", largest_mib(start)},
          {"memory_above_start_mib", largest_mib(measured.memory - start)},
          {"first_loss", measured.first_loss},
          {"last_loss", measured.last_loss}};
}

void print(const Json& row) {
  const auto summary = [&](const char* key) {
    return Summary{row[key]["median"], row[key]["min"], row[key]["max"]};
  };
  fmt::print("{} {}, {}, {} threads each: {:.0f} tokens/s\n", row["model"].get<std::string>(),
             row["dtype"].get<std::string>(), row["mesh"].get<std::string>(),
             row["threads_per_rank"].get<int>(), row["tokens_per_s"].get<double>());
  fmt::print("  step              {} s\n", to_string(summary("step_s"), 3));
  fmt::print("  communication     {} s of it, and {} s of the progress thread's processor time\n",
             to_string(summary("communication_s"), 3),
             to_string(summary("progress_thread_cpu_s"), 3));
  fmt::print("  training          {} GFLOP/s\n", to_string(summary("gflops"), 0));
  fmt::print("  matrix product    {} GFLOP/s\n", to_string(summary("gemm_peak_gflops"), 0));
  fmt::print("  training / peak   {}\n", to_string(summary("share_of_peak")));
  fmt::print(
      "  faults per step   {}\n  memory            {:.0f} MiB above the {:.0f} MiB before the "
      "model\n"
      "  loss              {:.4f} to {:.4f}\n",
      row["minor_faults_per_step"].get<int64_t>(), row["memory_above_start_mib"].get<double>(),
      row["memory_at_start_mib"].get<double>(), row["first_loss"].get<double>(),
      row["last_loss"].get<double>());
}

void run(const Settings& settings, MpiEnvironment& mpi) {
  set_threads(mpi, settings.threads);
  load_plugins({});
  const Mesh mesh = start_mesh(settings.mesh, settings.device_choice(), mpi);
  const WorkFolder folder(mesh.world(), fs::temp_directory_path().string());
  const int64_t start = mesh.device().is_cpu() ? resident_memory_bytes() : 0;
  const std::vector<int64_t> lengths =
      cycle_lengths(parse_lengths(settings.lengths), settings.tokens);
  if (mpi.world_rank() == 0) {
    run_init(settings.config, kSeed, folder / "model", at::kFloat, int64_t{1} << 40);
    const HfConfig hf = HfConfig::read(settings.config);
    write_dataset(folder / "data.h5", lengths, mesh.shape().dp, hf.integer("vocab_size"));
  }
  mesh.world().barrier();
  const LoadedModel loaded =
      load_model(folder / "model", mesh, settings.compute_dtype(), settings.memory());
  const Measured measured =
      measure(settings, train_options(settings, folder / "data.h5"), loaded, mesh);
  const int64_t parameters = count_parameters(*loaded.model);
  const TrainingFlop training(loaded.model->config());
  double flop = 0;
  for (const int64_t length : lengths) flop += training.of_sequence(length) * mesh.shape().dp;
  const Json row = report(settings, mesh, measured, flop, parameters, start);
  if (mpi.world_rank() != 0) return;
  print(row);
  if (!settings.json.empty()) std::ofstream(settings.json) << row.dump(1) << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  return run_benchmark([&](MpiEnvironment& mpi) {
    const Settings settings = parse(argc, argv);
    if (!settings.help) run(settings, mpi);
  });
}
