// Saving and loading checkpoints, against one process that writes (with fsync) or reads the same
// bytes in sequence on the same disk. Everything is measured in turns; loads and reads find nothing
// in the page cache.
//
//   [mpiexec -n N] bench_checkpoint [--config FILE] [--folder DIR] [--rounds 5] [--json FILE]
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <boost/program_options.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>

#include "archon/base/error.hpp"
#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/checkpoint/checkpoint_reader.hpp"
#include "archon/checkpoint/checkpoint_writer.hpp"
#include "archon/engine/run.hpp"
#include "archon/engine/train_step.hpp"
#include "archon/model/plugin_loader.hpp"
#include "archon/parallel/matmul.hpp"
#include "measure.hpp"

namespace fs = std::filesystem;
namespace po = boost::program_options;
using namespace archon;
using namespace archon::benchmarks;

namespace {

constexpr std::size_t kBlock = std::size_t{16} << 20;
constexpr int64_t kProductSize = 1024;
constexpr double kPassSeconds = 2;  // less than forward and backward of 2048 tokens take

struct Settings {
  std::string config, folder, json;
  int rounds = 0;
  bool help = false;
};

Settings parse(int argc, char** argv) {
  Settings s;
  po::options_description options("Options");
  // clang-format off
  options.add_options()
    ("help", po::bool_switch(&s.help), "this text")
    ("config", po::value(&s.config)->default_value(ARCHON_DEFAULT_CONFIG), "HuggingFace config.json")
    ("folder", po::value(&s.folder)->default_value("."), "on the disk to measure")
    ("rounds", po::value(&s.rounds)->default_value(5), "measurements of each thing")
    ("json", po::value(&s.json), "write the result there as well");
  // clang-format on
  po::variables_map values;
  po::store(po::parse_command_line(argc, argv, options), values);
  po::notify(values);
  if (s.help) std::cout << options;
  return s;
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : id_(::open(path.c_str(), flags, 0644)) {
    ARCHON_ENSURE(id_ >= 0, "cannot open {}", path);
  }
  ~Descriptor() { ::close(id_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return id_; }

 private:
  int id_;
};

void write_raw(const std::string& path, int64_t bytes, const std::vector<char>& block) {
  const Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  for (int64_t left = bytes; left > 0;) {
    const ssize_t count = ::write(file.get(), block.data(), std::min<int64_t>(left, kBlock));
    ARCHON_ENSURE(count > 0, "cannot write {}", path);
    left -= count;
  }
  ARCHON_ENSURE(::fsync(file.get()) == 0, "cannot sync {}", path);
}

void read_raw(const std::string& path, std::vector<char>& block) {
  const Descriptor file(path, O_RDONLY);
  while (::read(file.get(), block.data(), block.size()) > 0) {
  }
}

/// What was synced is read from the disk again.
void drop_from_page_cache(const std::string& path) {
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    const Descriptor file(entry.path().string(), O_RDONLY);
    ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

/// Names of what was measured, and seconds of each time.
using Times = std::map<std::string, std::vector<double>>;

class Bench {
 public:
  Bench(const Settings& settings, const Mesh& mesh)
      : mesh_(mesh), folder_(mesh.world(), settings.folder), block_(kBlock, 'a') {
    if (mesh.world().rank() == 0)
      run_init(settings.config, 7, folder_ / "model", at::kFloat, int64_t{1} << 40);
    mesh.world().barrier();
    loaded_.emplace(load_model(folder_ / "model", mesh, at::kFloat));
    TrainOptions options;
    optimizer_ = make_optimizer(options, *loaded_->model, loaded_->spec->adapter);
    products_ = count_products();
  }

  /// Of a checkpoint's tensors.
  int64_t bytes() const { return 3 * 4 * count_parameters(*loaded_->model); }

  Times run(int rounds) {
    CheckpointWriter shards = writer("shards", {});
    CheckpointWriter single = writer("single", {.layout = CheckpointLayout::single});
    CheckpointWriter async = writer("async", {.async = true});
    for (int round = 0; round < rounds; ++round) {
      raw();
      save_and_load("shards", shards);
      save_and_load("single", single);
      save_async(async);
    }
    return times_;
  }

 private:
  CheckpointWriter writer(const std::string& name, const CheckpointOptions& options) const {
    return {folder_ / name, options, *loaded_->model, *optimizer_, loaded_->spec->adapter,
            loaded_->hf, mesh_};
  }

  void time(const std::string& name, const std::function<void()>& body) {
    times_[name].push_back(seconds(mesh_.world(), body));
  }

  void raw() {
    const bool mine = mesh_.world().rank() == 0;
    const std::string folder = folder_ / "raw", path = folder + "/file";
    if (mine) fs::create_directories(folder);
    time("raw write", [&] { if (mine) write_raw(path, bytes(), block_); });
    if (mine) drop_from_page_cache(folder);
    time("raw read", [&] { if (mine) read_raw(path, block_); });
    if (mine) fs::remove_all(folder);
  }

  void save_and_load(const std::string& name, CheckpointWriter& writer) {
    CheckpointResult result;
    time("save " + name, [&] { result = writer.save(1, Json::object()); });
    ARCHON_ENSURE(result.complete, "{}", result.failure);
    if (mesh_.world().rank() == 0) drop_from_page_cache(folder_ / name);
    time("load " + name, [&] {
      load_checkpoint(result.folder, *loaded_->model, optimizer_.get(), loaded_->spec->adapter,
                      mesh_);
    });
    remove(folder_ / name);
  }

  /// In a step of training: what comes before the optimizer's part computes for kPassSeconds, and
  /// changes nothing.
  void save_async(CheckpointWriter& writer) {
    compute();  // the products' first run is slower
    time("passes", [&] { compute(); });
    writer.save(1, Json::object());
    time("passes beside a save", [&] { compute(); });
    step();
    add_pause("async pause", writer.finish());
    // Without anything to compute meanwhile.
    writer.save(2, Json::object());
    step();
    add_pause("async pause at once", writer.finish());
    remove(folder_ / "async");
  }

  void add_pause(const std::string& name, const CheckpointResult& result) {
    ARCHON_ENSURE(result.complete, "{}", result.failure);
    times_[name].push_back(mesh_.world().all_reduce(result.seconds_paused, ReduceOp::max));
  }

  void compute() const {
    const at::Tensor a = at::ones({kProductSize, kProductSize});
    for (int64_t i = 0; i < products_; ++i) matmul_nt(a, a);
  }

  /// Products that take about kPassSeconds.
  int64_t count_products() {
    products_ = 4;
    compute();
    const double time = seconds(mesh_.world(), [&] { compute(); });
    return static_cast<int64_t>(kPassSeconds / time * products_) + 1;
  }

  void step() {
    const auto zeros = [](const Parameter& parameter) { return at::zeros_like(parameter.master()); };
    optimizer_->step(owned_parts(*loaded_->model, zeros), 0, 1);
  }

  void remove(const std::string& path) const {
    mesh_.world().barrier();
    if (mesh_.world().rank() == 0) fs::remove_all(path);
    mesh_.world().barrier();
  }

  const Mesh& mesh_;
  WorkFolder folder_;
  std::vector<char> block_;
  std::optional<LoadedModel> loaded_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t products_ = 0;
  Times times_;
};

void print(const Times& times, int64_t bytes, int ranks) {
  fmt::print("{:.1f} MB of tensors, {} ranks; seconds, and speed against the raw disk in the same round\n",
             static_cast<double>(bytes) * 1e-6, ranks);
  const auto row = [&](const std::string& name, const std::string& against, const char* what) {
    const std::vector<double>& mine = times.at(name);
    fmt::print("  {:<12} {} s", name, to_string(summarize(mine), 3));
    if (!against.empty())
      fmt::print("   {} {}", what, to_string(summarize(ratios(times.at(against), mine))));
    fmt::print("\n");
  };
  row("raw write", "", "");
  for (const char* name : {"save shards", "save single"}) row(name, "raw write", "raw / this");
  row("raw read", "", "");
  for (const char* name : {"load shards", "load single"}) row(name, "raw read", "raw / this");
  for (const char* name : {"async pause", "async pause at once"})
    fmt::print("  {:<20} {} s   / synchronous save {}\n", name, to_string(summarize(times.at(name)), 3),
               to_string(summarize(ratios(times.at(name), times.at("save shards")))));
  fmt::print("  passes beside a save / passes: {}\n",
             to_string(summarize(ratios(times.at("passes beside a save"), times.at("passes")))));
}

void run(const Settings& settings, MpiEnvironment& mpi) {
  set_threads(mpi, 0);
  load_plugins({});
  const Mesh mesh({mpi.world_size(), 1, 1}, MPI_COMM_WORLD);
  Bench bench(settings, mesh);
  const Times times = bench.run(settings.rounds);
  if (mpi.world_rank() != 0) return;
  print(times, bench.bytes(), mpi.world_size());
  if (settings.json.empty()) return;
  Json json = {{"bytes", bench.bytes()}, {"ranks", mpi.world_size()}};
  for (const auto& [name, seconds] : times) json[name] = seconds;
  std::ofstream(settings.json) << json.dump(1) << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  return run_benchmark([&](MpiEnvironment& mpi) {
    const Settings settings = parse(argc, argv);
    if (!settings.help) run(settings, mpi);
  });
}
