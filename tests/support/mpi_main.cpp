// main() of every test program: MPI around Boost.Test, and a time-out for every collective, so
// that a test which breaks on one rank ends on all.
#define BOOST_TEST_NO_MAIN
#include <boost/test/unit_test.hpp>

#include <exception>

#include "archon/comm/mpi.hpp"
#include "archon/comm/watchdog.hpp"

namespace {
bool init_unit_test() { return true; }
}  // namespace

int main(int argc, char** argv) {
  const archon::MpiEnvironment mpi;
  const archon::Watchdog watchdog(std::chrono::seconds(60), mpi.world_rank());
  return boost::unit_test::unit_test_main(&init_unit_test, argc, argv);
}
