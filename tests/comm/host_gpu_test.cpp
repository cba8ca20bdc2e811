// The stand-in for NCCL and CUDA sees each breach of their rules: a test of the tests.
#include "support/host_gpu.hpp"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>

#include "archon/comm/mpi.hpp"
#include "support/world.hpp"

using archon::GpuRuntime;
using archon::test::host_gpu;
using archon::test::HostGpu;

namespace {

/// A communicator of all ranks, used as the backend does, or with one rule left out.
struct Direct {
  HostGpu& gpu = host_gpu();
  int rank = 0, size = 1;
  GpuRuntime::Stream stream = gpu.create_stream();
  GpuRuntime::Comm comm = nullptr;
  at::Tensor input, output;

  Direct() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    GpuRuntime::UniqueId id = {};
    if (rank == 0) id = gpu.unique_id();
    MPI_Bcast(id.data(), static_cast<int>(id.size()), MPI_BYTE, 0, MPI_COMM_WORLD);
    comm = gpu.init(id, size, rank);
    settle();
    input = at::full({4}, rank, at::dtype(at::kFloat));
    output = at::zeros({4 * size});
  }

  void settle() {
    while (gpu.state(comm) == GpuRuntime::CommState::in_progress) std::this_thread::yield();
  }
  void make_ready() { gpu.wait(stream, gpu.record(gpu.current_stream())); }
  void keep() {
    gpu.keep_for(stream, input);
    gpu.keep_for(stream, output);
  }
  void gather(int64_t bytes = 16) {
    gpu.all_gather(comm, input.const_data_ptr(), output.data_ptr(), bytes, stream);
  }
  void finish() {
    settle();
    gpu.wait(gpu.current_stream(), gpu.record(stream));
  }
  /// Whether the only kind of breach told is this one.
  bool told(const std::string& kind) {
    const auto breaches = gpu.take_breaches();
    for (const std::string& breach : breaches) {
      BOOST_TEST_MESSAGE(breach);
      if (breach.rfind(kind + ":", 0) != 0) return false;
    }
    return !breaches.empty();
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(host_gpu_rules)

BOOST_AUTO_TEST_CASE(proper_use_is_no_breach) {
  Direct direct;
  direct.make_ready();
  direct.keep();
  direct.gather();
  direct.finish();
  BOOST_TEST(direct.gpu.take_breaches().empty());
  for (int rank = 0; rank < direct.size; ++rank)
    BOOST_TEST(direct.output[4 * rank].item<float>() == rank);
}

BOOST_AUTO_TEST_CASE(used_before_ready) {
  Direct direct;
  direct.keep();
  direct.gather();
  direct.finish();
  BOOST_TEST(direct.told("used before ready"));
  // What waited once does not wait for what is computed after.
  direct.make_ready();
  direct.keep();
  direct.gather();
  direct.finish();
  BOOST_TEST(direct.gpu.take_breaches().empty());
  direct.keep();
  direct.gather();
  direct.finish();
  BOOST_TEST(direct.told("used before ready"));
}

BOOST_AUTO_TEST_CASE(freed_before_done) {
  Direct direct;
  direct.make_ready();
  direct.gpu.keep_for(direct.stream, direct.input);
  direct.gather();
  direct.finish();
  BOOST_TEST(direct.told("freed before done"));
}

BOOST_AUTO_TEST_CASE(put_on_a_stream_too_early) {
  Direct direct;
  direct.make_ready();
  direct.keep();
  direct.gather();
  direct.gpu.run_on(direct.stream, [] {});
  direct.finish();
  BOOST_TEST(direct.told("out of order"));
}

BOOST_AUTO_TEST_CASE(called_before_the_last_call_was_taken_in) {
  Direct direct;
  direct.make_ready();
  direct.keep();
  direct.gather();
  direct.gather();
  direct.finish();
  BOOST_TEST(direct.told("out of order"));
}

BOOST_AUTO_TEST_CASE(group_nesting) {
  Direct direct;
  direct.gpu.group_end();
  BOOST_TEST(direct.told("group nesting"));
  if (direct.size == 1) return;
  const int next = (direct.rank + 1) % direct.size;
  const int last = (direct.rank + direct.size - 1) % direct.size;
  direct.make_ready();
  direct.keep();
  direct.gpu.send(direct.comm, direct.input.const_data_ptr(), 16, next, direct.stream);
  direct.settle();
  direct.gpu.receive(direct.comm, direct.output.data_ptr(), 16, last, direct.stream);
  direct.finish();
  BOOST_TEST(direct.told("group nesting"));
}

BOOST_AUTO_TEST_CASE(different_counts_on_different_ranks) {
  Direct direct;
  if (direct.size == 1) return;
  direct.make_ready();
  direct.keep();
  direct.gather(direct.rank == 0 ? 8 : 16);
  direct.settle();
  direct.gpu.wait(direct.gpu.current_stream(), direct.gpu.record(direct.stream));
  const bool sees = direct.rank == 0 || direct.size >= 2;
  BOOST_TEST(direct.told("mismatch") == sees);
  BOOST_TEST((direct.gpu.state(direct.comm) == GpuRuntime::CommState::failed));
}

BOOST_AUTO_TEST_CASE(different_order_on_different_ranks) {
  Direct direct;
  if (direct.size == 1) return;
  direct.make_ready();
  direct.keep();
  if (direct.rank == 0)
    direct.gpu.broadcast(direct.comm, direct.input.data_ptr(), 16, 0, direct.stream);
  else
    direct.gather();
  direct.settle();
  direct.gpu.wait(direct.gpu.current_stream(), direct.gpu.record(direct.stream));
  BOOST_TEST(direct.told("mismatch"));
}

BOOST_AUTO_TEST_SUITE_END()
