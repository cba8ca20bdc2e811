#pragma once

#include "archon/comm/communicator.hpp"
#ifdef ARCHON_TEST_NCCL
#include <boost/test/unit_test.hpp>

#include "support/host_gpu.hpp"
#endif
#ifdef ARCHON_TEST_CUDA
#include "archon/comm/gpu_device.hpp"
#include "archon/mesh/topology.hpp"
#endif

namespace archon::test {

#ifdef ARCHON_TEST_NCCL

/// Never destroyed: the process may end without MPI.
inline HostGpu& host_gpu() {
  static auto* const gpu = new HostGpu;
  return *gpu;
}

/// Of each test case: at its end, no rule of streams, events and groups was broken.
struct BackendRules {
  ~BackendRules() {
    for (const std::string& breach : host_gpu().take_breaches()) BOOST_ERROR(breach);
  }
};

#else

struct BackendRules {};

#endif

#ifdef ARCHON_TEST_CUDA

/// A real GPU of this rank.
inline GpuRuntime& real_gpu() {
  static auto* const gpu = [] {
    const std::vector<int> hosts = host_of_ranks(MPI_COMM_WORLD);
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    const LocalRank local = local_rank(hosts, rank);
    return open_gpu(choose_device(local.rank, local.size, gpu_support().devices)).release();
  }();
  return *gpu;
}

inline at::Device device() { return real_gpu().device(); }

#else

/// Where the tests' tensors are.
inline at::Device device() { return at::kCPU; }

#endif

/// A group of all ranks of the test; over the NCCL backend where the test is built so.
inline Communicator world_group() {
  MPI_Comm comm = MPI_COMM_NULL;
  ARCHON_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  Communicator group(MpiComm(comm), "world");
#ifdef ARCHON_TEST_NCCL
  group.use_gpu(host_gpu());
#endif
#ifdef ARCHON_TEST_CUDA
  group.use_gpu(real_gpu());
#endif
  return group;
}

}  // namespace archon::test
