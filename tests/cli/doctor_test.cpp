// archon doctor on one rank and on two.
#include "cli_support.hpp"

using namespace archon::test;

namespace {

const std::vector<std::string> kNeeded = {"threads",  "MPI",  "ranks",         "memory",
                                          "LibTorch", "HDF5", "parallel HDF5", "plugins"};

void check_healthy(const ProcessResult& result) {
  BOOST_CHECK_MESSAGE(result.exit_code == 0, result.out << result.err);
  CHECK_CONTAINS(result.out, "every needed part works");
  for (const std::string& part : kNeeded) {
    const auto line = result.out.find("\n" + part + "  ");
    BOOST_REQUIRE_MESSAGE(line != std::string::npos, part << " is not in " << result.out);
    CHECK_CONTAINS(result.out.substr(line, result.out.find('\n', line + 1) - line), " OK ");
  }
}

/// Two ranks, one of which may not write more than a kilobyte. Over TCP: shared memory is a file.
ProcessResult run_limited(int rank, const std::vector<std::string>& options) {
  const std::string script = "if [[ $OMPI_COMM_WORLD_RANK == " + std::to_string(rank) +
                             " ]]; then ulimit -f 1; fi; exec \"$0\" \"$@\"";
  std::vector<std::string> command = {ARCHON_TEST_MPIEXEC, "--oversubscribe", "-n", "2"};
  command.insert(command.end(), {"--mca", "btl", "self,tcp", "bash", "-c", script});
  command.insert(command.end(), {archon_program(), "doctor", "--plugin", ARCHON_TEST_TOY_PLUGIN});
  command.insert(command.end(), options.begin(), options.end());
  return run_process(std::move(command));
}

}  // namespace

BOOST_AUTO_TEST_CASE(doctor_on_one_rank) {
  const auto result = run_archon({"doctor", "--plugin", ARCHON_TEST_TOY_PLUGIN});
  check_healthy(result);
  CHECK_CONTAINS(result.out, "all_reduce over 1 rank verified");
  CHECK_CONTAINS(result.out, "started directly");
  CHECK_CONTAINS(result.out, "toy_model");
}

BOOST_AUTO_TEST_CASE(doctor_on_two_ranks) {
  const auto result = run_archon_ranks(2, {"doctor", "--plugin", ARCHON_TEST_TOY_PLUGIN});
  check_healthy(result);
  CHECK_CONTAINS(result.out, "all_reduce over 2 ranks verified");
  CHECK_CONTAINS(result.out, "2 on 1 host");
}

BOOST_AUTO_TEST_CASE(doctor_fails_when_a_needed_part_does) {
  const TemporaryFolder folder;
  write_bytes(folder / "broken.so", "no ELF file");
  const std::map<std::string, std::string> broken = {{"ARCHON_PLUGIN_PATH", folder.path()}};
  const auto plugins = run_archon({"doctor"}, broken);
  BOOST_CHECK_EQUAL(plugins.exit_code, 3);
  CHECK_CONTAINS(plugins.out, "1 of the needed parts failed");
  CHECK_CONTAINS(plugins.out, "broken.so");

  const auto ranks = run_archon_ranks(2, {"doctor"}, broken);
  BOOST_CHECK_EQUAL(ranks.exit_code, 3);
  CHECK_CONTAINS(ranks.out, "broken.so");
}

BOOST_AUTO_TEST_CASE(a_rank_that_cannot_write_does_not_let_the_other_wait) {
  const auto result = run_limited(0, {});
  BOOST_TEST_CONTEXT(result.out << result.err) {
    BOOST_CHECK_EQUAL(result.exit_code, 3);
    CHECK_CONTAINS(result.out, "\nHDF5           FAILED             rank 0: ");
    CHECK_CONTAINS(result.out, "\nparallel HDF5  FAILED             rank 0: ");
    CHECK_CONTAINS(result.out, "2 of the needed parts failed");
  }
}

// Some versions of HDF5 let it wait for the others as it closes the file.
BOOST_AUTO_TEST_CASE(a_rank_that_fails_inside_a_collective_write_ends_the_job) {
  const auto result = run_limited(1, {"--collective-timeout", "3"});
  BOOST_TEST_CONTEXT(result.out << result.err) {
    BOOST_CHECK_EQUAL(result.exit_code, 3);
    BOOST_CHECK(contains(result.err, "timeout 3 s: inside write of an HDF5 file over host") ||
                contains(result.out, "\nparallel HDF5  FAILED             rank 1: "));
  }
}

BOOST_AUTO_TEST_CASE(doctor_uses_the_threads_it_is_told) {
  const auto result = run_archon({"doctor", "--threads", "2", "--plugin", ARCHON_TEST_TOY_PLUGIN});
  CHECK_CONTAINS(result.out, "2 threads per rank");
}
