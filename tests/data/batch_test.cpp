#include "archon/data/batch.hpp"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <boost/test/unit_test.hpp>
#include <functional>

#include "archon/base/error.hpp"

using archon::PackedBatch;
using archon::Sequence;
using Values = std::vector<int64_t>;

namespace {

Values values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kLong).contiguous();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

Sequence make(int64_t index, const Values& tokens, const Values& loss_mask) {
  return {index, at::tensor(tokens), at::tensor(loss_mask).to(at::kBool), {}};
}

// Every token but the first is a target; tokens count on from `first`.
Sequence counting(int64_t index, int64_t first, int64_t length) {
  Sequence sequence{
      index, at::arange(first, first + length, at::kLong), at::ones({length}, at::kBool), {}};
  sequence.loss_mask.mutable_data_ptr<bool>()[0] = false;
  return sequence;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(batch)

BOOST_AUTO_TEST_CASE(sequences_lie_end_to_end) {
  Sequence a = make(5, {10, 11, 12}, {0, 0, 1});
  Sequence b = make(2, {20}, {0});
  Sequence c = make(9, {30, 31}, {0, 1});
  a.fields["returns"] = at::tensor({0.0F, 1.0F, 2.0F});
  b.fields["returns"] = at::tensor({7.0F});
  c.fields["returns"] = at::tensor({8.0F, 9.0F});
  const PackedBatch batch = archon::pack({a, b, c}, 4);
  BOOST_TEST(batch.padded_tokens == 8);
  BOOST_TEST(values(batch.tokens) == (Values{10, 11, 12, 20, 30, 31, 0, 0}));
  BOOST_TEST(values(batch.positions) == (Values{0, 1, 2, 0, 0, 1, 0, 1}));
  BOOST_TEST(values(batch.labels) == (Values{11, 12, -1, -1, 31, -1, -1, -1}));
  BOOST_TEST(values(batch.target_mask) == (Values{0, 1, 0, 0, 1, 0, 0, 0}));
  BOOST_TEST(values(batch.fields.at("returns")) == (Values{1, 2, 0, 0, 9, 0, 0, 0}));
  BOOST_TEST(batch.cu_seqlens == (Values{0, 3, 4, 6}));
  BOOST_TEST(batch.sequences == (Values{5, 2, 9}));
  BOOST_TEST(batch.max_seqlen == 3);
  BOOST_TEST(batch.targets == 2);
  BOOST_TEST((batch.tokens.scalar_type() == at::kLong && batch.labels.scalar_type() == at::kLong &&
              batch.target_mask.scalar_type() == at::kBool &&
              batch.fields.at("returns").scalar_type() == at::kFloat));
}

BOOST_AUTO_TEST_CASE(a_full_stream_is_not_padded_and_a_prime_one_is) {
  BOOST_TEST(archon::pack({counting(0, 1, 5), counting(1, 6, 3)}, 4).padded_tokens == 8);
  const PackedBatch prime = archon::pack({counting(0, 1, 13)}, 6);
  BOOST_TEST(prime.padded_tokens == 18);
  BOOST_TEST(prime.targets == 12);
  BOOST_TEST(values(prime.positions.narrow(0, 13, 5)) == (Values{0, 1, 2, 3, 4}));
}

BOOST_AUTO_TEST_CASE(no_sequence_gives_one_multiple_of_padding) {
  const PackedBatch empty = archon::pack({}, 4, {"returns"});
  BOOST_TEST(empty.padded_tokens == 4);
  BOOST_TEST(values(empty.tokens) == (Values{0, 0, 0, 0}));
  BOOST_TEST(values(empty.labels) == (Values{-1, -1, -1, -1}));
  BOOST_TEST(values(empty.fields.at("returns")) == (Values{0, 0, 0, 0}));
  BOOST_TEST(empty.cu_seqlens == (Values{0}));
  BOOST_TEST(empty.targets == 0);
  BOOST_TEST(empty.max_seqlen == 0);
}

BOOST_AUTO_TEST_CASE(slices_concatenate_to_the_whole) {
  Sequence a = counting(0, 1, 7), b = counting(1, 100, 6);
  a.fields["advantages"] = at::arange(7, at::kFloat);
  b.fields["advantages"] = at::arange(6, at::kFloat);
  const PackedBatch whole = archon::pack({a, b}, 12);
  const auto concatenated = [&](const std::function<at::Tensor(const PackedBatch&)>& member) {
    std::vector<at::Tensor> slices;
    for (int rank = 0; rank < 3; ++rank)
      slices.push_back(member(archon::ulysses_slice_inputs(whole, rank, 3)));
    return at::cat(slices);
  };
  BOOST_TEST(at::equal(concatenated([](auto& b) { return b.tokens; }), whole.tokens));
  BOOST_TEST(at::equal(concatenated([](auto& b) { return b.positions; }), whole.positions));
  BOOST_TEST(at::equal(concatenated([](auto& b) { return b.labels; }), whole.labels));
  BOOST_TEST(at::equal(concatenated([](auto& b) { return b.target_mask; }), whole.target_mask));
  BOOST_TEST(at::equal(concatenated([](auto& b) { return b.fields.at("advantages"); }),
                       whole.fields.at("advantages")));
}

BOOST_AUTO_TEST_CASE(a_slice_knows_what_follows_it) {
  const PackedBatch whole = archon::pack({counting(0, 1, 8)}, 4);
  const PackedBatch first = archon::ulysses_slice_inputs(whole, 0, 2);
  BOOST_TEST(values(first.tokens) == (Values{1, 2, 3, 4}));
  BOOST_TEST(values(first.labels) == (Values{2, 3, 4, 5}));
  BOOST_TEST(values(first.target_mask) == (Values{1, 1, 1, 1}));
  BOOST_TEST(first.cu_seqlens == (Values{0, 8}));
  BOOST_TEST(first.max_seqlen == 8);
  BOOST_TEST(first.targets == 7);
  BOOST_TEST(first.padded_tokens == 8);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_cut_or_packed_is_refused) {
  const PackedBatch whole = archon::pack({counting(0, 1, 8)}, 4);
  BOOST_CHECK_THROW(archon::ulysses_slice_inputs(whole, 0, 3), archon::RuntimeFailure);
  BOOST_CHECK_THROW(archon::ulysses_slice_inputs(whole, 2, 2), archon::RuntimeFailure);
  Sequence with_field = counting(0, 1, 2);
  with_field.fields["returns"] = at::tensor({0.0F, 1.0F});
  BOOST_CHECK_THROW(archon::pack({with_field, counting(1, 1, 2)}, 4), archon::RuntimeFailure);
}

BOOST_AUTO_TEST_SUITE_END()
