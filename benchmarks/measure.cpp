#include "measure.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/memory.hpp"
#include "archon/base/threads.hpp"
#include "archon/comm/tensor_memory.hpp"
#include "archon/parallel/device_copy.hpp"

namespace archon::benchmarks {

Summary summarize(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const std::size_t n = samples.size();
  return {(samples[(n - 1) / 2] + samples[n / 2]) / 2, samples.front(), samples.back()};
}

std::string to_string(const Summary& summary, int digits) {
  return fmt::format("{:.{}f} ({:.{}f} to {:.{}f})", summary.median, digits, summary.min, digits,
                     summary.max, digits);
}

Json to_json(const Summary& summary) {
  return {{"median", summary.median}, {"min", summary.min}, {"max", summary.max}};
}

std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> result(a.size());
  std::transform(a.begin(), a.end(), b.begin(), result.begin(), std::divides<>());
  return result;
}

double seconds(const Communicator& group, const std::function<void()>& body, at::Device device) {
  using Clock = std::chrono::steady_clock;
  wait_for(device);
  group.barrier();
  const auto start = Clock::now();
  body();
  wait_for(device);
  const double mine = std::chrono::duration<double>(Clock::now() - start).count();
  return group.all_reduce(mine, ReduceOp::max);
}

double thread_cpu_seconds(const std::string& name) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string given;
    std::getline(std::ifstream(task.path() / "comm"), given);
    if (given != name) continue;
    double nanoseconds = 0;
    std::ifstream(task.path() / "schedstat") >> nanoseconds;  // its first number
    return nanoseconds * 1e-9;
  }
  return 0;
}

WorkFolder::WorkFolder(const Communicator& world, const std::string& parent)
    : owner_(world.rank() == 0) {
  std::string name = parent + "/archon-benchmark-XXXXXX";
  if (owner_) ARCHON_ENSURE(::mkdtemp(name.data()) != nullptr, "no folder can be made at {}", name);
  path_ = world.broadcast(name, 0);
}

WorkFolder::~WorkFolder() {
  std::error_code ignored;
  if (owner_) std::filesystem::remove_all(path_, ignored);
}

int64_t minor_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

void set_threads(const MpiEnvironment& mpi, int threads) {
  log::configure(log::Level::warning, mpi.world_rank(), mpi.world_size());
  if (threads > 0)
    at::set_num_threads(threads);
  else if (std::getenv("OMP_NUM_THREADS") == nullptr)
    at::set_num_threads(threads_per_rank(available_cores(), mpi.ranks_sharing_cores()));
}

int run_benchmark(const std::function<void(MpiEnvironment&)>& body) {
  keep_freed_memory();
  keep_tensor_memory();
  MpiEnvironment mpi;
  try {
    mpi.join_job();
    body(mpi);
    return 0;
  } catch (const std::exception& error) {
    mpi.abort(fmt::format("error: {}\n", error.what()), 3);
  }
}

}  // namespace archon::benchmarks
