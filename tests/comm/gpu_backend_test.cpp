// What the NCCL backend does beside the contract of every Communicator: groups split off a whole,
// and failures, which are seen from outside.
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"
#include "archon/comm/communicator.hpp"
#include "archon/mesh/mesh.hpp"
#include "support/process.hpp"
#include "support/text.hpp"
#include "support/world.hpp"

using archon::Communicator;
using archon::MpiComm;
using archon::test::holds;
using archon::test::host_gpu;
using archon::test::HostGpu;
using archon::test::world_group;

namespace {

void check_fails(int ranks, const std::vector<std::string>& arguments,
                 const std::vector<std::string>& parts) {
  std::vector<std::string> command = {
      ARCHON_TEST_MPIEXEC, "--oversubscribe", "-n", std::to_string(ranks),
      std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/tests/bin/gpu_program"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const auto result = archon::test::run_process(command);
  BOOST_TEST_CONTEXT(arguments[0] << ' ' << arguments[1]) {
    BOOST_TEST(result.exit_code == 3);
    BOOST_TEST(result.seconds < 20);
    for (const std::string& part : parts)
      BOOST_CHECK_MESSAGE(holds(result.err, part), result.err << " does not hold " << part);
  }
}

int world_size() {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(gpu_backend, archon::test::BackendRules)

BOOST_AUTO_TEST_CASE(groups_are_split_off_the_whole) {
  const Communicator whole = world_group();
  MPI_Comm halves = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, whole.rank() % 2, -whole.rank(), &halves);
  Communicator half(MpiComm(halves), "half");
  half.use_gpu_of(whole);
  int64_t want = 0;
  for (int rank = whole.rank() % 2; rank < whole.size(); rank += 2) want += rank;
  at::Tensor sum = at::full({5000}, whole.rank(), at::dtype(at::kFloat));
  half.all_reduce(sum);
  BOOST_TEST(sum.eq(want).all().item<bool>());
  // Ranks of a group are ordered as its communicator has them.
  at::Tensor first = at::full({1}, whole.rank(), at::dtype(at::kLong));
  half.broadcast(first, 0);
  const int last = whole.size() - 1;
  BOOST_TEST(first.item<int64_t>() == (last % 2 == whole.rank() % 2 ? last : last - 1));
}

BOOST_AUTO_TEST_CASE(all_groups_of_a_mesh_exchange) {
  const int size = world_size();
  archon::Mesh mesh({size % 2 == 0 ? size / 2 : size, size % 2 == 0 ? 2 : 1, 1}, MPI_COMM_WORLD);
  mesh.use_gpu(std::shared_ptr<archon::GpuRuntime>(&host_gpu(), [](archon::GpuRuntime*) {}));
  for (const Communicator* group : {&mesh.world(), &mesh.dp(), &mesh.cp(), &mesh.tp(),
                                    &mesh.model_parallel(), &mesh.shard_group()}) {
    at::Tensor ones = at::full({5000}, 1.0);
    group->all_reduce(ones);
    BOOST_TEST(ones.eq(group->size()).all().item<bool>());
  }
}

BOOST_AUTO_TEST_CASE(a_call_that_throws_reaches_the_caller) {
  const Communicator whole = world_group();
  if (whole.size() == 1) return;
  for (const char* call : {"record", "wait"}) {
    host_gpu().inject(call, HostGpu::Fault::fail_at_once);
    at::Tensor tensor = at::full({3}, 1.0);
    BOOST_CHECK_THROW(whole.all_reduce(tensor), archon::RuntimeFailure);
  }
}

// These start programs of their own, so one rank does it.
struct OneRank {
  bool here = world_size() == 1;
};

BOOST_FIXTURE_TEST_CASE(a_call_that_fails_at_once_ends_the_job, OneRank) {
  if (!here) return;
  for (const char* call : {"init", "create_stream", "broadcast", "all_gather",
                           "all_reduce", "reduce_scatter", "send", "receive", "reduce",
                           "group_end"}) {
    check_fails(2, {"at_once", call}, {fmt::format("{} failed: unhandled system error", call)});
  }
}

BOOST_FIXTURE_TEST_CASE(a_communicator_that_fails_later_ends_the_job, OneRank) {
  if (!here) return;
  check_fails(2, {"later", "all_gather"},
              {"NCCL failed in all_gather over cp (number 2): remote process exited"});
  check_fails(2, {"later", "send"}, {"NCCL failed in all_to_all over cp (number 5)"});
}

BOOST_FIXTURE_TEST_CASE(a_gpu_that_fails_under_the_watchdog_ends_the_job, OneRank) {
  if (!here) return;
  check_fails(2, {"blind", "all_gather"},
              {"reached failed: unhandled system error (as told) (looking at collectives over cp)"});
}

BOOST_FIXTURE_TEST_CASE(a_call_that_hangs_ends_the_job, OneRank) {
  if (!here) return;
  const std::map<std::string, std::string> operations = {
      {"broadcast", "broadcast over cp (number 1)"},
      {"all_gather", "all_gather over cp (number 2)"},
      {"all_reduce", "all_reduce over cp (number 3)"},
      {"reduce_scatter", "reduce_scatter over cp (number 4)"},
      {"receive", "all_to_all over cp (number 5)"},
      {"reduce", "reduce_scatter over cp (number 6)"}};
  for (const auto& [call, operation] : operations)
    check_fails(2, {"hang", call},
                {operation + " is not done on the GPU after --collective-timeout 0.7 s: all ranks "
                             "have started it"});
  check_fails(2, {"hang", "init"}, {"making of the NCCL communicator over cp"});
}

BOOST_FIXTURE_TEST_CASE(absent_ranks_are_named, OneRank) {
  if (!here) return;
  const std::string late = "broadcast over cp (number 2) is not done on the GPU after ";
  check_fails(3, {"absent", "-"}, {late, "rank 2 has not started it (it is at number 1)"});
  check_fails(3, {"stopped", "-"}, {late, "no answer from rank 2"});
}

BOOST_AUTO_TEST_SUITE_END()
