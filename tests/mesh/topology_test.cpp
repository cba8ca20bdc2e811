#include "archon/mesh/topology.hpp"

#include <boost/test/unit_test.hpp>

#include "support/text.hpp"

using archon::axes_across_hosts;
using archon::test::holds;

namespace {

std::vector<int> block(int hosts, int each) {
  std::vector<int> numbers;
  for (int rank = 0; rank < hosts * each; ++rank) numbers.push_back(rank / each);
  return numbers;
}

std::vector<int> round_robin(int hosts, int each) {
  std::vector<int> numbers;
  for (int rank = 0; rank < hosts * each; ++rank) numbers.push_back(rank % hosts);
  return numbers;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(topology)

BOOST_AUTO_TEST_CASE(groups_within_hosts_are_fine) {
  BOOST_TEST(axes_across_hosts({1, 1, 1}, {0}) == "");
  BOOST_TEST(axes_across_hosts({2, 2, 2}, block(2, 4)) == "");
  BOOST_TEST(axes_across_hosts({4, 1, 2}, block(4, 2)) == "");
  BOOST_TEST(axes_across_hosts({8, 1, 1}, round_robin(4, 2)) == "");  // dp crosses, as it must
}

BOOST_AUTO_TEST_CASE(a_group_that_no_host_has_room_for_is_fine) {
  BOOST_TEST(axes_across_hosts({1, 8, 2}, block(4, 4)) == "");
  BOOST_TEST(axes_across_hosts({1, 1, 8}, block(2, 4)) == "");
}

BOOST_AUTO_TEST_CASE(an_axis_spread_over_hosts_is_named) {
  const std::string tp = axes_across_hosts({4, 1, 2}, round_robin(2, 4));
  BOOST_CHECK_MESSAGE(holds(tp, "tp exchanges within every layer") && holds(tp, "= 2 ranks"), tp);
  const std::string both = axes_across_hosts({3, 2, 2}, round_robin(3, 4));
  BOOST_CHECK_MESSAGE(holds(both, "tp and cp exchange within"), both);
  // tp fits, cp x tp does not lie on host borders: three ranks a host.
  const std::string cp = axes_across_hosts({3, 2, 1}, block(2, 3));
  BOOST_CHECK_MESSAGE(holds(cp, "cp exchanges within") && holds(cp, "3 ranks of a host"), cp);
}

BOOST_AUTO_TEST_CASE(ranks_of_this_machine_are_on_one_host) {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  BOOST_TEST(archon::host_of_ranks(MPI_COMM_WORLD) == std::vector<int>(size, 0),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_SUITE_END()
