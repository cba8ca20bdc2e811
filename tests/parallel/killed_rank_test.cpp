// A rank that is killed while others gather parameters or sum gradients.
#include <boost/test/unit_test.hpp>

#include "support/process.hpp"

namespace {

void check_ends_and_names(const std::string& where, const std::string& place) {
  const auto result = archon::test::run_process(
      {ARCHON_TEST_MPIEXEC, "--oversubscribe", "-n", "4",
       std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/tests/bin/killed_rank_program", where});
  BOOST_TEST(result.exit_code != 0);
  BOOST_TEST(result.seconds < 20);
  for (const char* rank : {"archon[0]", "archon[2]", "archon[3]"})
    BOOST_CHECK_MESSAGE(
        result.err.find(std::string(rank) + ": ended by SIGTERM: inside " + where + " over world") !=
            std::string::npos,
        rank << " does not say that it waits in " << where << ": " << result.err);
  BOOST_CHECK_MESSAGE(result.err.find(place) != std::string::npos,
                      result.err << " does not hold " << place);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(killed_rank)

BOOST_AUTO_TEST_CASE(during_a_gather) {
  check_ends_and_names("all_gather", "in the forward pass of layers.2");
}

BOOST_AUTO_TEST_CASE(during_a_reduce_scatter) {
  check_ends_and_names("reduce_scatter", "in the backward pass of layers.0");
}

BOOST_AUTO_TEST_SUITE_END()
