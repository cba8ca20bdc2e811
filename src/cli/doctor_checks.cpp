#include "doctor_checks.hpp"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tanh.h>
#include <dlfcn.h>
#include <fmt/ranges.h>
#include <hdf5.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "archon/base/error.hpp"
#include "archon/base/host_device.hpp"
#include "archon/base/threads.hpp"
#include "archon/comm/gpu_device.hpp"
#include "archon/comm/watchdog.hpp"
#include "archon/io/hdf5.hpp"
#include "archon/model/plugin_loader.hpp"
#include "archon/model/registry.hpp"
#include "archon/model/reward.hpp"

namespace archon::cli {
namespace {

namespace fs = std::filesystem;
using Status = Finding::Status;

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string thread_level_name(int level) {
  switch (level) {
    case MPI_THREAD_SINGLE:
      return "MPI_THREAD_SINGLE";
    case MPI_THREAD_FUNNELED:
      return "MPI_THREAD_FUNNELED";
    case MPI_THREAD_SERIALIZED:
      return "MPI_THREAD_SERIALIZED";
    default:
      return "MPI_THREAD_MULTIPLE";
  }
}

// A folder of the host's own disk that all ranks of the host see; its first rank removes it.
class HostFolder {
 public:
  explicit HostFolder(const Communicator& host) : owner_(host.rank() == 0) {
    std::error_code ignored;  // an unusable place is an empty path
    const fs::path place = fs::temp_directory_path(ignored);
    std::string path = (place / "archon-doctor-XXXXXX").string();
    const bool made = owner_ && !place.empty() && ::mkdtemp(path.data()) != nullptr;
    path_ = host.broadcast(made ? path : "", 0);
    ARCHON_ENSURE(!path_.empty(),
                  "no folder can be made where TMPDIR or else /tmp is; set TMPDIR to one that is "
                  "writable");
  }
  ~HostFolder() {
    std::error_code ignored;
    if (owner_) fs::remove_all(path_, ignored);
  }
  HostFolder(const HostFolder&) = delete;
  HostFolder& operator=(const HostFolder&) = delete;
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  bool owner_;
  std::string path_;
};

// Runs `body`, and waits for the others even where it throws: a rank that left at once would let
// them wait in vain. False on a rank where it went well, but not on another, which throws.
bool all_did(const Communicator& group, const std::function<void()>& body) {
  std::exception_ptr failure;
  try {
    body();
  } catch (...) {
    failure = std::current_exception();
  }
  const auto failures = group.all_reduce(int64_t{failure ? 1 : 0}, ReduceOp::sum);
  if (failure) std::rethrow_exception(failure);
  return failures == 0;
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

// HDF5's identifiers and statuses are negative when a call failed.
template <class Result>
Result ensure_hdf5(Result result, const char* call) {
  ARCHON_ENSURE(result >= 0, "{} failed", call);
  return result;
}

constexpr int64_t kFirstNumber = 1000;

// One number of each rank, into /ranks of one file.
void write_rank_numbers(const std::string& path, const Communicator& host) {
  // Where the disk refuses one rank its part, some HDF5 waits, at the latest as it closes the file.
  const CollectiveScope scope("write of an HDF5 file", "host", 1);
  const hsize_t rows = static_cast<hsize_t>(host.size());
  const int64_t mine = kFirstNumber + host.rank();
  const h5::Handle access(ensure_hdf5(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate"));
  ensure_hdf5(H5Pset_fapl_mpio(access.get(), host.mpi(), MPI_INFO_NULL), "H5Pset_fapl_mpio");
  const h5::Handle file(
      ensure_hdf5(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), "H5Fcreate"));
  const h5::Handle space(ensure_hdf5(H5Screate_simple(1, &rows, nullptr), "H5Screate_simple"));
  const h5::Handle data(ensure_hdf5(H5Dcreate2(file.get(), "ranks", H5T_STD_I64LE, space.get(),
                                               H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                                    "H5Dcreate2"));
  const hsize_t begin = static_cast<hsize_t>(host.rank()), one = 1;
  const h5::Handle cell(ensure_hdf5(H5Screate_simple(1, &one, nullptr), "H5Screate_simple"));
  ensure_hdf5(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &begin, nullptr, &one, nullptr),
              "H5Sselect_hyperslab");
  const h5::Handle transfer(ensure_hdf5(H5Pcreate(H5P_DATASET_XFER), "H5Pcreate"));
  ensure_hdf5(H5Pset_dxpl_mpio(transfer.get(), H5FD_MPIO_COLLECTIVE), "H5Pset_dxpl_mpio");
  ensure_hdf5(
      H5Dwrite(data.get(), H5T_NATIVE_INT64, cell.get(), space.get(), transfer.get(), &mine),
      "H5Dwrite");
}

// Nanoseconds on a core, for each thread of this process.
std::map<std::string, double> thread_run_times() {
  std::map<std::string, double> times;
  for (const auto& entry : fs::directory_iterator("/proc/self/task")) {
    double nanoseconds = 0;
    std::ifstream(entry.path() / "schedstat") >> nanoseconds;
    times[entry.path().filename()] = nanoseconds;
  }
  return times;
}

// Threads that did a fair share of a LibTorch operation over many elements.
int count_working_threads() {
  constexpr int64_t kElements = int64_t{1} << 24;
  constexpr double kFairShare = 0.1;  // of the busiest thread's time
  const auto input = at::full({kElements}, 0.5);
  const auto before = thread_run_times();
  at::tanh(input);
  std::vector<double> spent;
  for (const auto& [thread, time] : thread_run_times()) {
    const auto known = before.find(thread);
    spent.push_back(time - (known == before.end() ? 0 : known->second));
  }
  const double most = *std::max_element(spent.begin(), spent.end());
  return static_cast<int>(
      std::count_if(spent.begin(), spent.end(), [&](double t) { return t > kFairShare * most; }));
}

double memory_gigabytes(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  double kibibytes = 0;
  while (file >> name >> kibibytes) {
    std::getline(file, unit);
    if (name == key + ":") return kibibytes * 1024 / 1e9;
  }
  return 0;
}

}  // namespace

Finding check_mpi(const Communicator& world) {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> library{};
  int length = 0, major = 0, minor = 0, level = 0;
  ARCHON_MPI(MPI_Get_library_version(library.data(), &length));
  ARCHON_MPI(MPI_Get_version(&major, &minor));
  ARCHON_MPI(MPI_Query_thread(&level));

  constexpr int64_t kElements = 1000;
  const int64_t size = world.size();
  bool right = true;
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kLong}) {
    const auto tensor = at::full({kElements}, world.rank() + 1, dtype);
    world.all_reduce(tensor);
    right &= at::equal(tensor, at::full({kElements}, size * (size + 1) / 2, dtype));
  }
  ARCHON_ENSURE(right, "all_reduce over {} ranks gave a wrong sum", size);
  const std::string text = library.data();
  return {Status::ok, fmt::format("{}; MPI {}.{}; {}; all_reduce over {} rank{} verified",
                                  text.substr(0, text.find_first_of(",\n")), major, minor,
                                  thread_level_name(level), size, size == 1 ? "" : "s")};
}

std::string find_launcher() {
  if (!started_by_launcher()) return "";
  const std::string job = environment("SLURM_JOB_ID");
  const std::string in_job = job.empty() ? "" : ", Slurm job " + job;
  // Open MPI's mpiexec may itself have been started by srun, so it is looked for first.
  if (!environment("OMPI_COMM_WORLD_RANK").empty()) return "mpiexec of Open MPI" + in_job;
  if (!environment("SLURM_STEP_ID").empty()) return "srun" + in_job;
  return "a launcher that announces PMI or PMIx ranks";
}

Finding check_launcher(const std::string& launcher) {
  if (launcher.empty())
    return {Status::absent, "started directly; several ranks need mpiexec or srun"};
  return {Status::ok, launcher};
}

Finding check_pmix() {
  const std::string name_space = environment("PMIX_NAMESPACE");
  if (name_space.empty()) return {Status::absent, "no PMIx server announced to this process"};
  const std::string version = environment("PMIX_VERSION");
  return {Status::ok,
          fmt::format("server {}namespace {}",
                      version.empty() ? "" : "of version " + version + ", ", name_space)};
}

Finding check_hosts(const Communicator& world) {
  constexpr int64_t kNameBytes = MPI_MAX_PROCESSOR_NAME;
  const auto mine = at::full({1, kNameBytes}, 0, at::kChar);
  int length = 0;
  ARCHON_MPI(MPI_Get_processor_name(reinterpret_cast<char*>(mine.data_ptr<int8_t>()), &length));
  const auto all = at::empty({world.size(), kNameBytes}, at::kChar);
  world.all_gather(all, mine);
  std::map<std::string, int> ranks;
  for (int rank = 0; rank < world.size(); ++rank)
    ++ranks[reinterpret_cast<const char*>(all.data_ptr<int8_t>() + rank * kNameBytes)];
  std::vector<std::string> parts;
  for (const auto& [host, count] : ranks) parts.push_back(fmt::format("{}: {}", host, count));
  return {Status::ok, fmt::format("{} on {} host{} ({})", world.size(), ranks.size(),
                                  ranks.size() == 1 ? "" : "s", fmt::join(parts, ", "))};
}

Finding check_memory() {
  return {Status::ok, fmt::format("{:.1f} GB on this host, {:.1f} GB available",
                                  memory_gigabytes("MemTotal"), memory_gigabytes("MemAvailable"))};
}

Finding check_threads(int ranks_sharing_cores) {
  const int threads = at::get_num_threads();
  const int working = count_working_threads();
  const std::string text = fmt::format("{}; {} thread{} per rank, {} seen working",
                                       describe_cores(available_cores(), ranks_sharing_cores),
                                       threads, threads == 1 ? "" : "s", working);
  return {working >= threads ? Status::ok : Status::failed, text};
}

Finding check_libtorch() {
  // Whole numbers this small are exact in float32: the product is known to the last bit.
  constexpr int64_t kSize = 128;
  const auto row = at::arange(kSize, at::kFloat);
  const auto left = row.view({kSize, 1}).expand({kSize, kSize}).contiguous();
  const auto product = at::matmul(left, at::ones({kSize, kSize}, at::kFloat));
  ARCHON_ENSURE(at::equal(product, left.mul(static_cast<double>(kSize))),
                "a matrix product gave wrong numbers");
  return {Status::ok, fmt::format("{}, kernels for {}, matrix product verified", TORCH_VERSION,
                                  at::get_cpu_capability())};
}

Finding check_hdf5(const Communicator& host) {
  const HostFolder folder(host);
  if (host.rank() == 0) {
    const auto tensor = at::arange(1000, at::kLong).view({10, 100});
    auto file = h5::File::create(folder.file("serial.h5"), "doctor", 1);
    file.write("/group/numbers", tensor);
    file.flush();
    const auto read = h5::File::open(folder.file("serial.h5")).read("/group/numbers");
    ARCHON_ENSURE(at::equal(read, tensor), "a file read back other numbers than were written");
  }
  return {Status::ok, hdf5_version() + ", file written and read back"};
}

Finding check_parallel_hdf5(const Communicator& host) {
  const HostFolder folder(host);
  const std::string path = folder.file("parallel.h5");
  // The folder stays until all have read.
  if (all_did(host, [&] { write_rank_numbers(path, host); }))
    all_did(host, [&] {
      const auto expected = at::arange(kFirstNumber, kFirstNumber + host.size(), at::kLong);
      ARCHON_ENSURE(at::equal(h5::File::open(path).read("/ranks"), expected),
                    "a file written by several ranks holds wrong numbers");
    });
  return {Status::ok, "MPI-IO, one file written by all ranks of a host and read back"};
}

Finding check_plugins(const std::vector<std::string>& files) {
  const auto plugins = load_plugins(files);
  std::vector<std::string> names;
  for (const ModelSpec* spec : ModelRegistry::instance().all()) names.push_back(spec->model_type);
  if (names.empty())
    return {Status::failed, "no model plugin found; set ARCHON_PLUGIN_PATH, or give --plugin FILE"};
  for (const RewardSpec* spec : RewardRegistry::instance().all()) names.push_back(spec->name);
  return {Status::ok, fmt::format("{} loaded: {}", plugins.size(), fmt::join(names, ", "))};
}

Finding check_cuda() {
  if constexpr (kCudaBuild) {
    const GpuSupport support = gpu_support();
    if (support.devices == 0) return {Status::absent, "none: " + support.why_none};
    return {Status::ok, fmt::format("{} device{}, one for each rank", support.devices,
                                    support.devices == 1 ? "" : "s")};
  }
  // The driver's library is asked, not linked: it is there only where a GPU is.
  void* const driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return {Status::absent, "none: no driver on this host"};
  const auto start = reinterpret_cast<int (*)(unsigned)>(::dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(::dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  if (start == nullptr || count == nullptr || start(0) != 0 || count(&devices) != 0 || devices == 0)
    return {Status::absent, "none: the driver finds no usable device"};
  return {Status::ok, fmt::format("{} device{}; this build computes on the CPU", devices,
                                  devices == 1 ? "" : "s")};
}

}  // namespace archon::cli
