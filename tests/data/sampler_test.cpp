#include "archon/data/sampler.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <map>
#include <numeric>

#include "archon/base/error.hpp"

using archon::Sampler;
using Indices = std::vector<int64_t>;

namespace {

Indices epoch_of(const Sampler& sampler, int64_t epoch) {
  Indices all;
  for (int64_t i = 1; i <= sampler.steps_per_epoch(); ++i) {
    const Indices batch = sampler.batch(epoch * sampler.steps_per_epoch() + i);
    all.insert(all.end(), batch.begin(), batch.end());
  }
  return all;
}

Indices sorted(Indices values) {
  std::sort(values.begin(), values.end());
  return values;
}

Indices count(int64_t n) {
  Indices values(n);
  std::iota(values.begin(), values.end(), 0);
  return values;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(sampler)

BOOST_AUTO_TEST_CASE(file_order_with_a_smaller_last_batch) {
  const Sampler sampler(7, 3, false, 0);
  BOOST_TEST(sampler.steps_per_epoch() == 3);
  BOOST_TEST(sampler.batch(1) == (Indices{0, 1, 2}));
  BOOST_TEST(sampler.batch(3) == (Indices{6}));
  BOOST_TEST(sampler.batch(4) == (Indices{0, 1, 2}));
  BOOST_TEST(sampler.epoch(3) == 0);
  BOOST_TEST(sampler.epoch(4) == 1);
}

BOOST_AUTO_TEST_CASE(whole_file_when_the_batch_is_0_or_larger) {
  for (const int64_t batch : {0, 5, 6, 1000}) {
    const Sampler sampler(5, batch, false, 0);
    BOOST_TEST(sampler.steps_per_epoch() == 1);
    BOOST_TEST(sampler.batch(9) == count(5));
  }
  BOOST_TEST(Sampler(6, 3, false, 0).steps_per_epoch() == 2);
}

BOOST_AUTO_TEST_CASE(each_epoch_is_a_new_order_of_all_sequences) {
  const Sampler sampler(101, 8, true, 42);
  std::vector<Indices> epochs;
  for (int64_t epoch = 0; epoch < 5; ++epoch) {
    epochs.push_back(epoch_of(sampler, epoch));
    BOOST_TEST(sorted(epochs.back()) == count(101));
    BOOST_TEST(epochs.back() != count(101));
  }
  std::sort(epochs.begin(), epochs.end());
  BOOST_TEST((std::unique(epochs.begin(), epochs.end()) == epochs.end()));
}

BOOST_AUTO_TEST_CASE(any_step_can_be_asked_for_at_once) {
  const Sampler straight(50, 7, true, 3);
  std::vector<Indices> batches;
  for (int64_t step = 1; step <= 30; ++step) batches.push_back(straight.batch(step));
  for (const int64_t step : {30, 1, 17, 8, 9}) {
    const Sampler resumed(50, 7, true, 3);
    BOOST_TEST(resumed.batch(step) == batches[step - 1]);
    BOOST_TEST(straight.batch(step) == batches[step - 1]);
  }
}

BOOST_AUTO_TEST_CASE(seeds_differ_and_do_not_shift_into_epochs) {
  const Sampler a(40, 0, true, 1), b(40, 0, true, 2);
  BOOST_TEST(a.batch(1) != b.batch(1));
  BOOST_TEST(a.batch(2) != b.batch(1));
}

// The order is part of what a resumed run relies on: it must not change with compiler or version.
// Expected values from an implementation of the same generators in another language.
BOOST_AUTO_TEST_CASE(order_is_fixed_for_all_times) {
  BOOST_TEST(Sampler(8, 0, true, 0).batch(1) == (Indices{7, 4, 0, 1, 5, 2, 3, 6}));
  BOOST_TEST(Sampler(8, 0, true, 0).batch(2) == (Indices{6, 5, 3, 1, 0, 4, 2, 7}));
}

BOOST_AUTO_TEST_CASE(all_places_are_equally_likely) {
  const Sampler sampler(6, 0, true, 9);
  std::map<std::pair<int64_t, int64_t>, int> seen;
  constexpr int kEpochs = 6000;
  for (int64_t step = 1; step <= kEpochs; ++step) {
    const Indices order = sampler.batch(step);
    for (std::size_t place = 0; place < order.size(); ++place) ++seen[{place, order[place]}];
  }
  BOOST_TEST(seen.size() == 36U);
  for (const auto& [where, times] : seen)
    BOOST_TEST(std::abs(times - kEpochs / 6) < 150);  // 5 sigma
}

BOOST_AUTO_TEST_CASE(wrong_arguments_are_refused) {
  BOOST_CHECK_THROW(Sampler(0, 1, true, 0), archon::InputError);
  BOOST_CHECK_THROW(Sampler(5, -1, true, 0), archon::InputError);
  BOOST_CHECK_THROW(Sampler(5, 1, true, 0).batch(0), archon::RuntimeFailure);
}

BOOST_AUTO_TEST_SUITE_END()
