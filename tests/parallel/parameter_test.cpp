#include "archon/parallel/parameter.hpp"

#include <ATen/core/grad_mode.h>
#include <boost/test/unit_test.hpp>

#include "archon/base/error.hpp"

namespace {

using archon::Parameter;
using archon::RuntimeFailure;
using archon::TpPlacement;

Parameter make(TpPlacement placement, int rank, int size) {
  // 5 + 2 rows: neither is a multiple of 3
  Parameter parameter({{{"a", {5, 4}}, {"b", {2, 4}}}, placement});
  parameter.set_tp(rank, size);
  parameter.allocate(at::kFloat);
  return parameter;
}

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
    BOOST_TEST(parameter.value().sizes() == at::IntArrayRef({a_rows[rank] + b_rows[rank], 4}));
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
  BOOST_TEST(parameter.value().sizes() == at::IntArrayRef({7, 1}));
}

BOOST_AUTO_TEST_CASE(replicated_is_whole_on_every_rank) {
  const Parameter parameter = make(TpPlacement::replicated, 2, 3);
  BOOST_TEST(parameter.tp_range(0).begin == 0);
  BOOST_TEST(parameter.tp_range(0).end == 5);
  BOOST_TEST(parameter.value().sizes() == at::IntArrayRef({7, 4}));
}

BOOST_AUTO_TEST_CASE(local_part_is_a_view) {
  Parameter parameter = make(TpPlacement::rows, 0, 1);
  const at::NoGradGuard no_grad;
  parameter.local_part(parameter.master(), 0).fill_(1);
  parameter.local_part(parameter.master(), 1).fill_(2);
  BOOST_TEST(parameter.master().sum().item<float>() == 5 * 4 + 2 * 2 * 4);
  BOOST_TEST(parameter.master()[5][0].item<float>() == 2);
}

BOOST_AUTO_TEST_CASE(float32_master_and_value_share_storage) {
  Parameter parameter = make(TpPlacement::rows, 0, 1);
  BOOST_TEST(parameter.value().requires_grad());
  BOOST_TEST(parameter.value().is_leaf());
  BOOST_TEST(!parameter.master().requires_grad());
  parameter.master().fill_(3);  // what an optimizer does: in place, and without a grad guard
  BOOST_TEST(parameter.value().detach().min().item<float>() == 3);
}

BOOST_AUTO_TEST_CASE(bfloat16_value_is_the_rounded_master) {
  Parameter parameter({{{"a", {2, 2}}}, TpPlacement::rows});
  parameter.allocate(at::kBFloat16);
  parameter.master().fill_(1.001F);  // no bfloat16 number
  parameter.refresh_value();
  BOOST_TEST((parameter.value().scalar_type() == at::kBFloat16));
  BOOST_TEST((parameter.master().scalar_type() == at::kFloat));
  BOOST_TEST(parameter.value().detach().to(at::kFloat)[0][0].item<float>() == 1.0F);
  BOOST_TEST(parameter.master()[0][0].item<float>() == 1.001F);
}

BOOST_AUTO_TEST_CASE(float32_gradients_accumulate_in_place) {
  Parameter parameter = make(TpPlacement::rows, 0, 1);
  parameter.master().fill_(1);
  parameter.zero_grad();
  const void* storage = parameter.grad().data_ptr();
  for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
    backward(parameter.value().mul(2).sum());
    parameter.collect_grad();
  }
  BOOST_TEST(parameter.grad().data_ptr() == storage);
  BOOST_TEST(parameter.grad().min().item<float>() == 6);
  BOOST_TEST(parameter.grad().max().item<float>() == 6);
  parameter.zero_grad();
  BOOST_TEST(parameter.grad().data_ptr() == storage);
  BOOST_TEST(parameter.grad().max().item<float>() == 0);
  backward(parameter.value().sum());
  parameter.collect_grad();
  BOOST_TEST(parameter.grad().max().item<float>() == 1);
}

BOOST_AUTO_TEST_CASE(bfloat16_gradients_are_summed_in_float32) {
  Parameter parameter({{{"a", {4}}}, TpPlacement::replicated});
  parameter.allocate(at::kBFloat16);
  parameter.master().fill_(1);
  parameter.refresh_value();
  parameter.zero_grad();
  // 256 + 1 + 1 is 256 in bfloat16, whose step there is 2
  for (const float gradient : {256.0F, 1.0F, 1.0F}) {
    backward(parameter.value().mul(gradient).sum());
    parameter.collect_grad();
    BOOST_TEST(!parameter.value().grad().defined());
  }
  BOOST_TEST((parameter.grad().scalar_type() == at::kFloat));
  BOOST_TEST(parameter.grad()[0].item<float>() == 258);
}

BOOST_AUTO_TEST_CASE(a_parameter_without_gradient_keeps_zero) {
  Parameter parameter = make(TpPlacement::rows, 0, 1);
  parameter.zero_grad();
  parameter.collect_grad();
  BOOST_TEST(parameter.grad().abs().max().item<float>() == 0);
}

BOOST_AUTO_TEST_CASE(wrong_declarations_are_refused) {
  BOOST_CHECK_THROW(Parameter({{}, TpPlacement::rows}), RuntimeFailure);
  BOOST_CHECK_THROW(Parameter({{{"a", {2, 3}}, {"b", {2, 4}}}, TpPlacement::rows}), RuntimeFailure);
  BOOST_CHECK_THROW(Parameter({{{"a", {2}}}, TpPlacement::columns}), RuntimeFailure);
  BOOST_CHECK_THROW(Parameter({{{"a", {}}}, TpPlacement::replicated}), RuntimeFailure);
  Parameter parameter = make(TpPlacement::rows, 0, 1);
  BOOST_CHECK_THROW(parameter.set_tp(0, 2), RuntimeFailure);
}

BOOST_AUTO_TEST_CASE(collecting_before_zero_grad_is_refused) {
  Parameter parameter = make(TpPlacement::rows, 0, 1);
  backward(parameter.value().sum());
  BOOST_CHECK_THROW(parameter.collect_grad(), RuntimeFailure);
}

}  // namespace
