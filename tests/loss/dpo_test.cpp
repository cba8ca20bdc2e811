// DPO against its formula pair by pair, and its gradient by finite differences.
#include "archon/loss/dpo.hpp"

#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "support.hpp"
#include "support/tensors.hpp"

using archon::dpo_loss;
using archon::DpoBatch;
using archon::DpoOptions;
using namespace archon::test;

namespace {

constexpr int64_t kTokens = 40;
// Three pairs; one chosen answer of a single token, one rejected one without a target.
const std::vector<int64_t> kOffsets = {0, 9, 14, 15, 22, 28, 36};

bool is_target(int64_t t) { return t < 36 && (t == 14 || t % 4 != 2) && !(t >= 28 && t < 36); }

const at::Tensor kMask = mask_of(kTokens, is_target);
const std::vector<double> kReference = numbers(noise({kTokens}, 2));

double shift(const std::vector<double>& log_probs, int64_t sequence) {
  double sum = 0;
  for (int64_t t = kOffsets[sequence]; t < kOffsets[sequence + 1]; ++t)
    if (is_target(t)) sum += log_probs[t] - kReference[t];
  return sum;
}

std::vector<double> formula(const std::vector<double>& log_probs, const DpoOptions& options) {
  std::vector<double> losses;
  for (int64_t pair = 0; pair < 3; ++pair) {
    const double margin =
        options.beta * (shift(log_probs, 2 * pair) - shift(log_probs, 2 * pair + 1));
    const double preferred = 1 / (1 + std::exp(-margin)), other = 1 / (1 + std::exp(margin));
    losses.push_back(-(1 - options.label_smoothing) * std::log(preferred) -
                     options.label_smoothing * std::log(other));
  }
  return losses;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(dpo)

BOOST_AUTO_TEST_CASE(equals_its_formula) {
  const std::vector<double> x = numbers(noise({kTokens}, 1));
  for (const DpoOptions options : {DpoOptions{}, DpoOptions{1.5, 0.0}, DpoOptions{0.5, 0.2}}) {
    const at::Tensor log_probs = leaf(spoiled(tensor_of(x), kMask));
    const auto got =
        dpo_loss({log_probs, spoiled(tensor_of(kReference), kMask), kMask, kOffsets}, options);
    check_equal(got.loss, formula(x, options));
    for (int64_t pair = 0; pair < 3; ++pair) {
      BOOST_TEST(numbers(got.chosen_rewards)[pair] == options.beta * shift(x, 2 * pair),
                 boost::test_tools::tolerance(1e-12));
      BOOST_TEST(numbers(got.rejected_rewards)[pair] == options.beta * shift(x, 2 * pair + 1),
                 boost::test_tools::tolerance(1e-12));
    }
    got.loss.sum().backward();
    check_gradient(log_probs.grad(), x, [&](const std::vector<double>& shifted) {
      const std::vector<double> losses = formula(shifted, options);
      return losses[0] + losses[1] + losses[2];
    });
  }
}

BOOST_AUTO_TEST_CASE(huge_margins_stay_finite) {
  const at::Tensor log_probs = leaf(tensor_of({-2000, 0})),
                   mask = mask_of(2, [](int64_t) { return true; });
  const auto got =
      dpo_loss({log_probs, at::zeros({2}, at::kDouble), mask, {0, 1, 2}}, {.beta = 1.0});
  got.loss.sum().backward();
  check_equal(got.loss, {2000});
  check_equal(log_probs.grad(), {-1, 1});
}

BOOST_AUTO_TEST_CASE(a_rank_may_have_no_pair) {
  const at::Tensor log_probs = leaf(at::zeros({4}, at::kDouble));
  const auto got = dpo_loss({log_probs, log_probs.detach(), at::zeros({4}, at::kBool), {0}}, {});
  BOOST_TEST(got.loss.numel() == 0);
  got.loss.sum().backward();
  BOOST_TEST(log_probs.grad().eq(0).all().item<bool>());
}

BOOST_AUTO_TEST_CASE(refuses_what_is_no_pair) {
  const at::Tensor zeros = at::zeros({6}, at::kDouble);
  check_refused(
      [&] {
        dpo_loss({zeros, zeros, zeros.to(at::kBool), {0, 2, 4, 6}}, {});
      },
      {"3 sequences", "even"});
  check_refused([] { validate(DpoOptions{.beta = 0}); }, {"beta 0"});
  check_refused([] { validate(DpoOptions{.label_smoothing = 0.5}); }, {"smoothing 0.5"});
  BOOST_CHECK_NO_THROW(validate(DpoOptions{}));
}

BOOST_AUTO_TEST_SUITE_END()
