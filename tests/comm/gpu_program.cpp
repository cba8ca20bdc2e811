// Ranks that exchange over the NCCL backend, of which one goes wrong:
//   gpu_program at_once|later|hang CALL     the last rank's next CALL does so
//   gpu_program blind CALL                  it hangs, and looking at what hangs fails on the watchdog's
//                                           thread
//   gpu_program absent|stopped -            the last rank does not come to a collective
#include <ATen/ops/full.h>

#include <csignal>
#include <cstdio>
#include <map>
#include <string>
#include <thread>

#include "archon/comm/communicator.hpp"
#include "archon/comm/watchdog.hpp"
#include "support/host_gpu.hpp"

namespace {

using archon::Communicator;
using archon::test::HostGpu;

const std::map<std::string, HostGpu::Fault> kFaults = {{"at_once", HostGpu::Fault::fail_at_once},
                                                       {"later", HostGpu::Fault::fail_later},
                                                       {"hang", HostGpu::Fault::hang},
                                                       {"blind", HostGpu::Fault::hang}};

Communicator make_group(HostGpu& gpu) {
  MPI_Comm comm = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  Communicator group(archon::MpiComm(comm), "cp");
  group.use_gpu(gpu);
  return group;
}

// Every call of NCCL that the backend makes.
void use_every_call(const Communicator& group) {
  const int64_t n = group.size();
  at::Tensor block = at::full({4}, 1.0), whole = at::full({4 * n}, 1.0);
  group.broadcast(block, 0);
  group.all_gather(whole, block);
  group.all_reduce(block);
  group.reduce_scatter(block, whole);
  group.all_to_all(whole, at::full({4 * n}, 1.0));
  std::vector<int64_t> rows(n, 1);
  rows[0] = 2;
  group.reduce_scatter(at::full({rows[group.rank()]}, 1.0), at::full({n + 1}, 1.0), rows);
}

void stay_away(const std::string& how) {
  if (how == "stopped") std::raise(SIGSTOP);
  std::this_thread::sleep_for(std::chrono::minutes(1));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "", call = argc > 2 ? argv[2] : "";
  archon::MpiEnvironment mpi;
  // A rank that throws is to speak before the others give it up.
  const auto timeout = std::chrono::milliseconds(how == "at_once" ? 20000 : 700);
  const archon::Watchdog watchdog(timeout, mpi.world_rank());
  try {
    HostGpu gpu;
    const bool wrong = mpi.world_rank() == mpi.world_size() - 1;
    const auto fault = kFaults.find(how);
    if (wrong && fault != kFaults.end()) gpu.inject(call, fault->second);
    if (wrong && how == "blind") gpu.inject("reached", HostGpu::Fault::fail_at_once);
    const Communicator group = make_group(gpu);
    at::Tensor first = at::full({3}, 1.0);
    if (fault == kFaults.end()) {
      group.all_reduce(first);
      if (wrong) stay_away(how);
    }
    use_every_call(group);
  } catch (const std::exception& error) {
    mpi.abort(std::string("archon: error: ") + error.what() + "\n", 3);
  }
  return 0;
}
