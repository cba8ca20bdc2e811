// The weights of tokens: what they add up to, whatever the batch is cut into.
#include "archon/loss/aggregate.hpp"

#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>

#include "support.hpp"
#include "support/tensors.hpp"

using archon::Aggregate;
using archon::BatchCounts;
using archon::count_batch;
using archon::token_weights;
using namespace archon::test;

namespace {

// Sequences of 3, 1, 4 and 2 tokens with 2, 1, 0 and 1 targets, and padding.
const std::vector<int64_t> kOffsets = {0, 3, 4, 8, 10};
const at::Tensor kMask =
    mask_of(12, [](int64_t t) { return t == 0 || t == 1 || t == 3 || t == 8; });

}  // namespace

BOOST_AUTO_TEST_SUITE(aggregate)

BOOST_AUTO_TEST_CASE(sequences_without_targets_do_not_count) {
  const BatchCounts counts = count_batch(kMask, kOffsets);
  BOOST_TEST(counts.targets == 4);
  BOOST_TEST(counts.sequences == 3);
}

BOOST_AUTO_TEST_CASE(equal_their_definitions) {
  const BatchCounts counts = count_batch(kMask, kOffsets);
  const auto weights = [&](double first, double others) {
    return std::vector<double>{first, first, 0, others, 0, 0, 0, 0, others, 0, 0, 0};
  };
  check_equal(token_weights(kMask, kOffsets, Aggregate::token_mean, counts), weights(0.25, 0.25));
  check_equal(token_weights(kMask, kOffsets, Aggregate::sequence_mean, counts),
              weights(1.0 / 6, 1.0 / 3));
  check_equal(token_weights(kMask, kOffsets, Aggregate::sequence_sum, counts),
              weights(1.0 / 3, 1.0 / 3));
  check_equal(token_weights(kMask, kOffsets, Aggregate::sequence_sum, counts, 8.0),
              weights(1.0 / 24, 1.0 / 24));
}

BOOST_AUTO_TEST_CASE(do_not_depend_on_the_split) {
  // The first sequence in one stream; the others in a second one, without padding.
  const at::Tensor first = kMask.narrow(0, 0, 3), second = kMask.narrow(0, 3, 7);
  BatchCounts counts = count_batch(first, {0, 3});
  counts += count_batch(second, {0, 1, 5, 7});
  for (const Aggregate aggregate :
       {Aggregate::token_mean, Aggregate::sequence_mean, Aggregate::sequence_sum}) {
    const at::Tensor whole =
        token_weights(kMask, kOffsets, aggregate, count_batch(kMask, kOffsets), 3.0);
    BOOST_TEST(token_weights(first, {0, 3}, aggregate, counts, 3.0).equal(whole.narrow(0, 0, 3)));
    BOOST_TEST(
        token_weights(second, {0, 1, 5, 7}, aggregate, counts, 3.0).equal(whole.narrow(0, 3, 7)));
  }
}

BOOST_AUTO_TEST_CASE(without_targets_they_are_zero) {
  const at::Tensor mask = at::zeros({5}, at::kBool);
  for (const Aggregate aggregate :
       {Aggregate::token_mean, Aggregate::sequence_mean, Aggregate::sequence_sum})
    check_equal(token_weights(mask, {0, 2, 4}, aggregate, count_batch(mask, {0, 2, 4})),
                std::vector<double>(5, 0.0));
}

BOOST_AUTO_TEST_CASE(a_length_of_nothing_is_refused) {
  check_refused(
      [] {
        token_weights(kMask, kOffsets, Aggregate::sequence_sum, {4, 3}, 0.0);
      },
      {"is 0", "generation budget"});
}

BOOST_AUTO_TEST_SUITE_END()
