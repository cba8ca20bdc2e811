#include "archon/comm/watchdog.hpp"

#include <boost/test/unit_test.hpp>

#include "support/process.hpp"
#include "support/text.hpp"

using archon::test::holds;

namespace {

archon::test::ProcessResult run(const std::string& part) {
  return archon::test::run_process(
      {std::string(std::getenv("ARCHON_TEST_BINARY_DIR")) + "/tests/bin/watchdog_program", part});
}

}  // namespace

BOOST_AUTO_TEST_SUITE(watchdog)

BOOST_AUTO_TEST_CASE(a_stuck_rank_says_where_and_exits_3) {
  const auto result = run("stuck");
  BOOST_TEST(result.exit_code == 3);
  BOOST_TEST(result.seconds < 10);
  for (const char* part :
       {"archon[5]", "--collective-timeout 0.3 s", "all_reduce over tp", "number 17", "inside"})
    BOOST_CHECK_MESSAGE(holds(result.err, part), result.err << " does not hold " << part);
}

BOOST_AUTO_TEST_CASE(time_outside_collectives_is_free) {
  const auto result = run("slow");
  BOOST_TEST(result.exit_code == 0);
  BOOST_TEST(result.err == "");
}

BOOST_AUTO_TEST_CASE(a_rank_ended_by_the_launcher_says_where_it_stood) {
  const auto result = run("term");
  BOOST_TEST(result.exit_code == 128 + SIGTERM);
  BOOST_TEST(result.seconds < 10);
  for (const char* part : {"archon[5]", "SIGTERM", "outside any collective", "all_reduce over tp"})
    BOOST_CHECK_MESSAGE(holds(result.err, part), result.err << " does not hold " << part);
}

// The same signal comes to all ranks, to some of them late.
BOOST_AUTO_TEST_CASE(a_rank_asked_during_an_orderly_end_lives_to_its_end) {
  BOOST_TEST(run("orderly").exit_code == 0);
}

BOOST_AUTO_TEST_SUITE_END()
