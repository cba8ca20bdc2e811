#pragma once

#include <functional>
#include <string>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "archon/comm/mpi.hpp"
#include "archon/io/json.hpp"

namespace archon::benchmarks {

/// What remains of repeated measurements of one thing.
struct Summary {
  double median = 0, min = 0, max = 0;
};

Summary summarize(std::vector<double> samples);
/// "0.71 (0.65 to 0.74)"
std::string to_string(const Summary& summary, int digits = 2);
Json to_json(const Summary& summary);
/// Element by element a / b.
std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b);

/// Seconds that the slowest rank of the group needs for `body`, with what it leaves to `device`;
/// all begin together.
double seconds(const Communicator& group, const std::function<void()>& body,
               at::Device device = at::kCPU);

/// Processor seconds so far of this process's thread of that name; 0 where there is none.
double thread_cpu_seconds(const std::string& name);

/// A folder of rank 0's below `parent`, known to all ranks and removed at the end.
class WorkFolder {
 public:
  WorkFolder(const Communicator& world, const std::string& parent);
  ~WorkFolder();
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  bool owner_;
  std::string path_;
};

/// Page faults of this process so far that needed no disk.
int64_t minor_faults();

/// Sets the threads as `archon` does at its start; 0 means as many as this rank's share of the
/// cores (or OMP_NUM_THREADS).
void set_threads(const MpiEnvironment& mpi, int threads);

/// Runs `body` as `archon` runs a command: memory is kept, an error ends the whole job with its
/// message.
int run_benchmark(const std::function<void(MpiEnvironment&)>& body);

}  // namespace archon::benchmarks
