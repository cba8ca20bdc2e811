#include "archon/data/packing.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <numeric>
#include <random>

#include "archon/base/error.hpp"

using archon::MicroBatchPlan;
using Lengths = std::vector<int64_t>;

namespace {

int64_t sum(const Lengths& lengths, const std::vector<int64_t>& entries) {
  int64_t tokens = 0;
  for (const int64_t entry : entries) tokens += lengths[entry];
  return tokens;
}

Lengths random_lengths(std::mt19937_64& generator, int64_t largest) {
  Lengths lengths(generator() % 60);
  for (int64_t& length : lengths) length = 1 + static_cast<int64_t>(generator() % largest);
  return lengths;
}

void check_plan(const Lengths& lengths, int64_t max_tokens, int dp) {
  const MicroBatchPlan plan = archon::plan_micro_batches(lengths, max_tokens, dp);
  BOOST_REQUIRE(plan.size() == static_cast<std::size_t>(dp));
  BOOST_TEST(plan.front().size() >= 1U);
  std::vector<int64_t> seen, tokens(dp, 0);
  for (int rank = 0; rank < dp; ++rank) {
    BOOST_TEST(plan[rank].size() == plan.front().size());
    int64_t half_full = 0;
    for (const std::vector<int64_t>& entries : plan[rank]) {
      const int64_t filled = sum(lengths, entries);
      BOOST_TEST((filled <= max_tokens || entries.size() == 1));
      if (!entries.empty() && 2 * filled <= max_tokens) ++half_full;
      tokens[rank] += filled;
      seen.insert(seen.end(), entries.begin(), entries.end());
    }
    BOOST_TEST(half_full <= 1);  // two of them would have been one
  }
  std::sort(seen.begin(), seen.end());
  std::vector<int64_t> all(lengths.size());
  std::iota(all.begin(), all.end(), 0);
  BOOST_TEST(seen == all);
  const auto [least, most] = std::minmax_element(tokens.begin(), tokens.end());
  const int64_t longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  BOOST_TEST(*most - *least <= longest);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(packing)

BOOST_AUTO_TEST_CASE(random_plans_keep_their_promises) {
  std::mt19937_64 generator(5);
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t largest = 1 + static_cast<int64_t>(generator() % 200);
    const int64_t max_tokens = 1 + static_cast<int64_t>(generator() % 300);
    check_plan(random_lengths(generator, largest), max_tokens, 1 + trial % 5);
  }
}

BOOST_AUTO_TEST_CASE(a_known_plan) {
  // Longest first to the emptier rank: 9, 3, 2 on rank 0 and 7, 5, 2 on rank 1.
  const MicroBatchPlan plan = archon::plan_micro_batches({2, 9, 5, 7, 3, 2}, 10, 2);
  const MicroBatchPlan expected = {{{1}, {0, 4}}, {{3, 5}, {2}}};
  BOOST_TEST((plan == expected));
}

BOOST_AUTO_TEST_CASE(lengths_alone_decide_the_shape) {
  std::mt19937_64 generator(6);
  const auto shape = [](const Lengths& lengths) {
    std::vector<std::vector<Lengths>> shape;
    for (const auto& rank : archon::plan_micro_batches(lengths, 50, 3)) {
      shape.emplace_back();
      for (const auto& entries : rank) {
        Lengths of_entries;
        for (const int64_t entry : entries) of_entries.push_back(lengths[entry]);
        std::sort(of_entries.begin(), of_entries.end());
        shape.back().push_back(of_entries);
      }
    }
    return shape;
  };
  Lengths lengths = random_lengths(generator, 40);
  const auto before = shape(lengths);
  for (int trial = 0; trial < 10; ++trial) {
    std::shuffle(lengths.begin(), lengths.end(), generator);
    BOOST_TEST((shape(lengths) == before));
  }
}

BOOST_AUTO_TEST_CASE(fewer_sequences_than_ranks) {
  const MicroBatchPlan none = archon::plan_micro_batches({}, 10, 3);
  BOOST_TEST((none == MicroBatchPlan(3, {{}})));
  const MicroBatchPlan one = archon::plan_micro_batches({4}, 10, 2);
  BOOST_TEST((one == MicroBatchPlan{{{0}}, {{}}}));
}

BOOST_AUTO_TEST_CASE(long_sequences_stay_alone) {
  const MicroBatchPlan plan = archon::plan_micro_batches({100, 1, 10, 10}, 10, 1);
  BOOST_TEST((plan == MicroBatchPlan{{{0}, {2}, {3}, {1}}}));
}

BOOST_AUTO_TEST_CASE(equal_lengths_go_by_index) {
  const MicroBatchPlan plan = archon::plan_micro_batches({4, 4, 4, 4}, 8, 2);
  BOOST_TEST((plan == MicroBatchPlan{{{0, 2}}, {{1, 3}}}));
}

BOOST_AUTO_TEST_CASE(wrong_arguments_are_refused) {
  BOOST_CHECK_THROW(archon::plan_micro_batches({1}, 0, 1), archon::InputError);
  BOOST_CHECK_THROW(archon::plan_micro_batches({1}, 1, 0), archon::RuntimeFailure);
  BOOST_CHECK_THROW(archon::padding_multiple(64, 4, 0, 1, 1), archon::InputError);
}

BOOST_AUTO_TEST_CASE(padding_is_a_page_and_divides_among_ranks) {
  BOOST_TEST(archon::padding_multiple(4096, 2, 1 << 20, 1, 1) == 256);  // 2 MiB / 4096 / 2
  BOOST_TEST(archon::padding_multiple(4096, 2, 64, 1, 1) == 64);
  BOOST_TEST(archon::padding_multiple(4096, 2, 64, 2, 3) == 192);
  BOOST_TEST(archon::padding_multiple(64, 4, 64, 2, 4) == 64);
  BOOST_TEST(archon::padding_multiple(1 << 22, 4, 64, 3, 2) == 6);  // less than a token a page
  BOOST_TEST(archon::padding_multiple(64, 4, 1, 1, 1) == 1);
}

BOOST_AUTO_TEST_SUITE_END()
