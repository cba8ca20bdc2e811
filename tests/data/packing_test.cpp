#include "archon/data/packing.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <numeric>
#include <random>

#include "archon/base/error.hpp"

using archon::MicroBatchPlan;
using Lengths = std::vector<int64_t>;

namespace {

/// Sequences that cost as much as they are long.
MicroBatchPlan plan_by_length(const Lengths& lengths, int64_t max_tokens, int dp) {
  return archon::plan_micro_batches(lengths, {lengths.begin(), lengths.end()}, max_tokens, dp);
}

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
  const MicroBatchPlan plan = plan_by_length(lengths, max_tokens, dp);
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
  const MicroBatchPlan plan = plan_by_length({2, 9, 5, 7, 3, 2}, 10, 2);
  const MicroBatchPlan expected = {{{1}, {0, 4}}, {{3, 5}, {2}}};
  BOOST_TEST((plan == expected));
}

BOOST_AUTO_TEST_CASE(lengths_alone_decide_the_shape) {
  std::mt19937_64 generator(6);
  const auto shape = [](const Lengths& lengths) {
    std::vector<std::vector<Lengths>> shape;
    for (const auto& rank : plan_by_length(lengths, 50, 3)) {
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
  const MicroBatchPlan none = plan_by_length({}, 10, 3);
  BOOST_TEST((none == MicroBatchPlan(3, {{}})));
  const MicroBatchPlan one = plan_by_length({4}, 10, 2);
  BOOST_TEST((one == MicroBatchPlan{{{0}}, {{}}}));
}

BOOST_AUTO_TEST_CASE(long_sequences_stay_alone) {
  const MicroBatchPlan plan = plan_by_length({100, 1, 10, 10}, 10, 1);
  BOOST_TEST((plan == MicroBatchPlan{{{0}, {2}, {3}, {1}}}));
}

BOOST_AUTO_TEST_CASE(equal_lengths_go_by_index) {
  const MicroBatchPlan plan = plan_by_length({4, 4, 4, 4}, 8, 2);
  BOOST_TEST((plan == MicroBatchPlan{{{0, 2}}, {{1, 3}}}));
}

// Attention takes as much as the matrix products in a sequence of 100 tokens.
BOOST_AUTO_TEST_CASE(the_dearest_rank_has_less_to_do_when_spread_by_cost) {
  const auto cost = [](int64_t length) { return 100.0 * length + 1.0 * length * length; };
  const auto dearest = [&](const Lengths& lengths, const MicroBatchPlan& plan) {
    double most = 0;
    for (const auto& rank : plan) {
      double mine = 0;
      for (const auto& entries : rank)
        for (const int64_t entry : entries) mine += cost(lengths[entry]);
      most = std::max(most, mine);
    }
    return most;
  };
  std::mt19937_64 generator(7);
  double by_length = 0, by_cost = 0;
  for (int trial = 0; trial < 50; ++trial) {
    // A long one, and short ones with some five times as many tokens.
    Lengths lengths = {300 + static_cast<int64_t>(generator() % 200)};
    while (lengths.size() < 150) lengths.push_back(1 + static_cast<int64_t>(generator() % 30));
    std::vector<double> costs;
    for (const int64_t length : lengths) costs.push_back(cost(length));
    const MicroBatchPlan plan = archon::plan_micro_batches(lengths, costs, 500, 2);
    BOOST_TEST((archon::plan_micro_batches(lengths, costs, 500, 2) == plan));
    by_cost += dearest(lengths, plan);
    by_length += dearest(lengths, plan_by_length(lengths, 500, 2));
    const double total = std::accumulate(costs.begin(), costs.end(), 0.0);
    const double largest = *std::max_element(costs.begin(), costs.end());
    BOOST_TEST(dearest(lengths, plan) <= std::max(largest, total / 2 + largest));
    Lengths seen;
    for (const auto& rank : plan)
      for (const auto& entries : rank) {
        BOOST_TEST((sum(lengths, entries) <= 500 || entries.size() == 1));
        seen.insert(seen.end(), entries.begin(), entries.end());
      }
    std::sort(seen.begin(), seen.end());
    Lengths all(lengths.size());
    std::iota(all.begin(), all.end(), 0);
    BOOST_TEST(seen == all);
  }
  BOOST_TEST(by_cost < 0.85 * by_length);
}

BOOST_AUTO_TEST_CASE(a_known_plan_by_cost) {
  // By tokens the 8 would be joined by a 4; by cost 64 weighs more than 3 · 16.
  const Lengths lengths = {8, 4, 4, 4};
  const MicroBatchPlan plan = archon::plan_micro_batches(lengths, {64, 16, 16, 16}, 16, 2);
  BOOST_TEST((plan == MicroBatchPlan{{{0}}, {{1, 2, 3}}}));
  BOOST_TEST((plan_by_length(lengths, 16, 2) == MicroBatchPlan{{{0, 3}}, {{1, 2}}}));
}

BOOST_AUTO_TEST_CASE(wrong_arguments_are_refused) {
  BOOST_CHECK_THROW(archon::plan_micro_batches({1, 2}, {1}, 1, 1), archon::RuntimeFailure);
  BOOST_CHECK_THROW(plan_by_length({1}, 0, 1), archon::InputError);
  BOOST_CHECK_THROW(plan_by_length({1}, 1, 0), archon::RuntimeFailure);
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
