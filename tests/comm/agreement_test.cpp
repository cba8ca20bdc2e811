// What some ranks find wrong, all ranks throw.
#include "archon/comm/agreement.hpp"

#include <fmt/format.h>

#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"
#include "support/world.hpp"

using namespace archon;
using archon::test::world_group;

namespace {

/// The message of what `body` throws on this rank as an error of all.
template <class Body>
std::string shared_error(const Body& body) {
  try {
    body();
  } catch (const SharedInputError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

BOOST_AUTO_TEST_SUITE(agreement)

BOOST_AUTO_TEST_CASE(what_rank_zero_refuses_all_refuse) {
  const Communicator group = world_group();
  int calls = 0;
  const auto check = [&](bool right) {
    return shared_error([&] {
      check_on_rank_zero(group, [&] {
        ++calls;
        ARCHON_VALIDATE(right, "wrong");
      });
    });
  };
  BOOST_TEST(check(true) == "");
  BOOST_TEST(check(false) == "wrong");
  BOOST_TEST(calls == (group.rank() == 0 ? 2 : 0));
}

BOOST_AUTO_TEST_CASE(what_one_rank_refuses_all_refuse) {
  const Communicator group = world_group();
  for (int first = 0; first <= group.size(); ++first) {
    const std::string error = shared_error([&] {
      check_on_every_rank(
          group, [&] { ARCHON_VALIDATE(group.rank() < first, "{} is wrong", group.rank()); });
    });
    BOOST_TEST(error == (first == group.size() ? ""
                         : first == 0          ? "0 is wrong"
                                      : fmt::format("rank {}: {} is wrong", first, first)));
  }
}

BOOST_AUTO_TEST_CASE(bytes_come_together_on_rank_zero) {
  const Communicator group = world_group();
  const auto of = [](int rank) { return std::string(static_cast<std::size_t>(rank) * 3, 'x'); };
  const auto all = gather_bytes(group, of(group.rank()));
  if (group.rank() != 0) {
    BOOST_TEST(all.empty());
    return;
  }
  BOOST_REQUIRE(static_cast<int>(all.size()) == group.size());
  for (int rank = 0; rank < group.size(); ++rank) BOOST_TEST(all[rank] == of(rank));
}

BOOST_AUTO_TEST_SUITE_END()
