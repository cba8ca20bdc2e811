// Where a parameter's elements lie, and what a unit that shards nothing does with its gradients.
#include "archon/parallel/parameter_unit.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"

namespace {

using archon::Communicator;
using archon::Parameter;
using archon::ParameterUnit;
using archon::Range;
using archon::RuntimeFailure;
using archon::Sharding;
using archon::TpPlacement;

Parameter make(TpPlacement placement, int rank, int size) {
  // 5 + 2 rows: neither is a multiple of 3
  Parameter parameter({{{"a", {5, 4}}, {"b", {2, 4}}}, placement});
  parameter.set_tp(rank, size);
  return parameter;
}

/// One parameter in a unit of its own, on one rank.
struct Alone {
  explicit Alone(Parameter given, at::ScalarType dtype = at::kFloat)
      : group(Communicator::self()),
        sharding({.compute_dtype = dtype}, group),
        parameter(std::move(given)),
        unit("alone", {&parameter}) {
    unit.allocate(sharding);
    at::Tensor(parameter.master()).fill_(1);
    unit.refresh_values();
  }
  Communicator group;
  Sharding sharding;
  Parameter parameter;
  ParameterUnit unit;
};

void backward(const at::Tensor& scalar) {
  const at::AutoGradMode grad(true);
  scalar.backward();
}

BOOST_AUTO_TEST_CASE(rows_are_cut_part_by_part) {
  const int64_t a_rows[] = {2, 2, 1};
  const int64_t b_rows[] = {1, 1, 0};
  for (int rank = 0; rank < 3; ++rank) {
    const Parameter parameter = make(TpPlacement::rows, rank, 3);
    BOOST_TEST(parameter.tp_range(0).size() == a_rows[rank]);
    BOOST_TEST(parameter.tp_range(1).size() == b_rows[rank]);
    BOOST_TEST(parameter.local_rows(0).begin == 0);
    BOOST_TEST(parameter.local_rows(0).end == a_rows[rank]);
    BOOST_TEST(parameter.local_rows(1).end == a_rows[rank] + b_rows[rank]);
    BOOST_TEST(parameter.part_elements(1).begin == 4 * a_rows[rank]);
    BOOST_TEST(parameter.local_numel() == 4 * (a_rows[rank] + b_rows[rank]));
    BOOST_TEST(parameter.local_shape() == std::vector<int64_t>({a_rows[rank] + b_rows[rank], 4}));
  }
  BOOST_TEST(make(TpPlacement::rows, 1, 3).tp_range(0).begin == 2);
  BOOST_TEST(make(TpPlacement::rows, 2, 3).tp_range(1).begin == 2);
}

BOOST_AUTO_TEST_CASE(columns_keep_all_rows) {
  const Parameter parameter = make(TpPlacement::columns, 1, 3);
  BOOST_TEST(parameter.tp_dim() == 1);
  BOOST_TEST(parameter.tp_range(1).begin == 2);
  BOOST_TEST(parameter.tp_range(1).end == 3);
  BOOST_TEST(parameter.local_rows(1).begin == 5);
  BOOST_TEST(parameter.local_shape() == std::vector<int64_t>({7, 1}));
}

BOOST_AUTO_TEST_CASE(replicated_is_whole_on_every_rank) {
  const Parameter parameter = make(TpPlacement::replicated, 2, 3);
  BOOST_TEST(parameter.tp_range(0).begin == 0);
  BOOST_TEST(parameter.tp_range(0).end == 5);
  BOOST_TEST(parameter.local_shape() == std::vector<int64_t>({7, 4}));
}

BOOST_AUTO_TEST_CASE(ranges_meet_or_are_empty) {
  const auto same = [](Range got, Range want) {
    BOOST_TEST(got.begin == want.begin);
    BOOST_TEST(got.end == want.end);
  };
  same(archon::intersect({2, 9}, {0, 5}), {2, 5});
  same(archon::intersect({2, 9}, {4, 20}), {4, 9});
  same(archon::intersect({2, 9}, {-5, 1}), {2, 2});
  same(archon::intersect({2, 9}, {12, 20}), {9, 9});
}

BOOST_AUTO_TEST_CASE(parts_of_what_is_owned_are_views) {
  Alone alone(make(TpPlacement::rows, 0, 1));
  Parameter& parameter = alone.parameter;
  parameter.owned_part(parameter.master(), 0).fill_(1);
  parameter.owned_part(parameter.master(), 1).fill_(2);
  BOOST_TEST(parameter.master().sum().item<float>() == 5 * 4 + 2 * 2 * 4);
  BOOST_TEST(parameter.local_part(parameter.value().detach(), 1).min().item<float>() == 2);
}

BOOST_AUTO_TEST_CASE(float32_master_and_value_share_storage) {
  Alone alone(make(TpPlacement::rows, 0, 1));
  const Parameter& parameter = alone.parameter;
  BOOST_TEST(parameter.value().requires_grad());
  BOOST_TEST(parameter.value().is_leaf());
  BOOST_TEST(!parameter.master().requires_grad());
  parameter.master().fill_(3);  // what an optimizer does: in place, and without a grad guard
  BOOST_TEST(parameter.value().detach().min().item<float>() == 3);
}

BOOST_AUTO_TEST_CASE(bfloat16_value_is_the_rounded_master) {
  Alone alone(Parameter({{{"a", {2, 2}}}, TpPlacement::rows}), at::kBFloat16);
  const Parameter& parameter = alone.parameter;
  parameter.master().fill_(1.001F);  // no bfloat16 number
  alone.unit.refresh_values();
  BOOST_TEST((parameter.value().scalar_type() == at::kBFloat16));
  BOOST_TEST((parameter.master().scalar_type() == at::kFloat));
  BOOST_TEST(parameter.value().detach().to(at::kFloat)[0][0].item<float>() == 1.0F);
  BOOST_TEST(parameter.master()[0].item<float>() == 1.001F);
}

BOOST_AUTO_TEST_CASE(gradients_add_up_until_they_are_cleared) {
  Alone alone(make(TpPlacement::rows, 0, 1));
  const Parameter& parameter = alone.parameter;
  for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
    backward(parameter.value().mul(2).sum());
    alone.unit.reduce_gradients();
    BOOST_TEST(!parameter.value().grad().defined());
  }
  BOOST_TEST(parameter.grad().min().item<float>() == 6);
  BOOST_TEST(parameter.grad().max().item<float>() == 6);
  alone.unit.clear_gradients();
  backward(parameter.value().sum());
  BOOST_TEST(parameter.grad().max().item<float>() == 1);
}

BOOST_AUTO_TEST_CASE(bfloat16_gradients_are_summed_in_float32) {
  for (const TpPlacement placement : {TpPlacement::replicated, TpPlacement::rows}) {
    Alone alone(Parameter({{{"a", {4}}}, placement}), at::kBFloat16);
    // 256 + 1 + 1 is 256 in bfloat16, whose step there is 2
    for (const float gradient : {256.0F, 1.0F, 1.0F})
      backward(alone.parameter.value().mul(gradient).sum());
    BOOST_TEST((alone.parameter.grad().scalar_type() == at::kFloat));
    BOOST_TEST(alone.parameter.grad()[0].item<float>() == 258);
  }
}

BOOST_AUTO_TEST_CASE(a_gradient_that_is_no_sum_takes_no_more_memory_than_its_type) {
  Alone alone(Parameter({{{"a", {4}}}, TpPlacement::rows}), at::kBFloat16);
  for (int step = 0; step < 2; ++step) {
    alone.unit.clear_gradients();
    backward(alone.parameter.value().mul(3).sum());
    BOOST_TEST((alone.parameter.grad().scalar_type() == at::kBFloat16));
    BOOST_TEST(alone.parameter.grad()[0].item<float>() == 3);
  }
}

BOOST_AUTO_TEST_CASE(a_parameter_without_gradient_has_zeros) {
  Alone alone(make(TpPlacement::rows, 0, 1));
  BOOST_TEST(alone.parameter.grad().numel() == 28);
  BOOST_TEST(alone.parameter.grad().abs().max().item<float>() == 0);
  BOOST_TEST(alone.parameter.whole_grad().sizes() == at::IntArrayRef({7, 4}));
}

BOOST_AUTO_TEST_CASE(wrong_declarations_are_refused) {
  BOOST_CHECK_THROW(Parameter({{}, TpPlacement::rows}), RuntimeFailure);
  BOOST_CHECK_THROW(Parameter({{{"a", {2, 3}}, {"b", {2, 4}}}, TpPlacement::rows}), RuntimeFailure);
  BOOST_CHECK_THROW(Parameter({{{"a", {2}}}, TpPlacement::columns}), RuntimeFailure);
  BOOST_CHECK_THROW(Parameter({{{"a", {}}}, TpPlacement::replicated}), RuntimeFailure);
  Alone alone(make(TpPlacement::rows, 0, 1));
  BOOST_CHECK_THROW(alone.parameter.set_tp(0, 2), RuntimeFailure);
}

}  // namespace
