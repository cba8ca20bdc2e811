// main() of every test program: MPI around Boost.Test, and a time-out for every collective, so
// that a test which breaks on one rank ends on all.
#define BOOST_TEST_NO_MAIN
#include "support/mpi_main.hpp"

#include <boost/test/unit_test.hpp>

#include "archon/comm/watchdog.hpp"

namespace {

archon::MpiEnvironment* environment = nullptr;

bool init_unit_test() { return true; }

}  // namespace

archon::MpiEnvironment& test_environment() { return *environment; }

int main(int argc, char** argv) {
  archon::MpiEnvironment mpi;
  environment = &mpi;
  const archon::Watchdog watchdog(std::chrono::seconds(60), mpi.world_rank());
  return boost::unit_test::unit_test_main(&init_unit_test, argc, argv);
}
