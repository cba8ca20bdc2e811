// Policy losses against the formula token by token, and their gradient by finite differences.
#include "archon/loss/policy.hpp"

#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "support/tensors.hpp"

using archon::policy_loss;
using archon::PolicyBatch;
using archon::PolicyLossOptions;
using archon::test::leaf;
using archon::test::noise;

namespace {

constexpr int64_t kTokens = 60;
// One sequence of a single token, one without any target, and padding at the end.
const std::vector<int64_t> kOffsets = {0, 20, 21, 33, 55};

bool is_target(int64_t t) { return t < 55 && t % 3 != 1 && !(t >= 21 && t < 33); }

at::Tensor log_probs(int seed) { return noise({kTokens}, seed).mul(0.8).sub(3.0); }

/// Where there is no target the inputs hold NaN, which must not matter.
PolicyBatch make_batch(const at::Tensor& current) {
  const at::Tensor mask = at::zeros({kTokens}, at::kBool);
  for (int64_t t = 0; t < kTokens; ++t) mask.mutable_data_ptr<bool>()[t] = is_target(t);
  const auto spoiled = [&](const at::Tensor& x) {
    return x.masked_fill(mask.logical_not(), std::numeric_limits<double>::quiet_NaN());
  };
  return {current, spoiled(log_probs(2)), spoiled(log_probs(3)), spoiled(noise({kTokens}, 4)), mask,
          kOffsets};
}

/// Mean over the targets of the sequence of token t.
double sequence_mean(const double* x, int64_t t) {
  const auto end = std::upper_bound(kOffsets.begin(), kOffsets.end(), t);
  double sum = 0, count = 0;
  for (int64_t i = *(end - 1); i < *end; ++i)
    if (is_target(i)) sum += x[i], ++count;
  return sum / count;
}

std::vector<double> reference(const at::Tensor& current, const PolicyLossOptions& options) {
  const at::Tensor log_ratios = current.detach() - log_probs(2), advantage = noise({kTokens}, 4);
  const double *log_ratio = log_ratios.const_data_ptr<double>(),
               *a = advantage.const_data_ptr<double>();
  const at::Tensor lags = log_probs(2) - log_probs(3);
  std::vector<double> losses(kTokens, 0.0);
  for (int64_t t = 0; t < kTokens; ++t) {
    if (!is_target(t)) continue;
    const double adv = options.sequence_ratio ? sequence_mean(a, t) : a[t];
    const double r = std::exp(options.sequence_ratio ? sequence_mean(log_ratio, t) : log_ratio[t]);
    double clipped = r;
    if (r < 1 - options.eps_clip) clipped = 1 - options.eps_clip;
    if (r > 1 + options.eps_clip_higher) clipped = 1 + options.eps_clip_higher;
    double loss = -std::min(adv * r, adv * clipped);
    if (options.dual_clip > 0 && adv < 0) loss = std::min(loss, -options.dual_clip * adv);
    const double weight = std::exp(lags.const_data_ptr<double>()[t]);
    const bool dropped = options.behaviour_weight_cap > 0 && weight > options.behaviour_weight_cap;
    losses[t] = dropped ? 0 : loss * weight;
  }
  return losses;
}

void check(const PolicyLossOptions& options) {
  const at::Tensor current = leaf(log_probs(1));
  const at::Tensor losses = policy_loss(make_batch(current), options);
  const std::vector<double> expected = reference(current, options);
  for (int64_t t = 0; t < kTokens; ++t)
    BOOST_TEST(losses.detach().const_data_ptr<double>()[t] == expected[t],
               boost::test_tools::tolerance(1e-12));

  losses.sum().backward();
  const double step = 1e-6;
  for (int64_t t = 0; t < kTokens; ++t) {
    const auto shifted_sum = [&](double by) {
      const at::Tensor shifted = log_probs(1).clone();
      shifted.mutable_data_ptr<double>()[t] += by;
      const std::vector<double> all = reference(shifted, options);
      double sum = 0;
      for (const double loss : all) sum += loss;
      return sum;
    };
    const double slope = (shifted_sum(step) - shifted_sum(-step)) / (2 * step);
    BOOST_TEST(std::abs(current.grad().const_data_ptr<double>()[t] - slope) < 1e-7);
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(policy)

BOOST_AUTO_TEST_CASE(clips_ratios_on_both_sides) {
  check({.eps_clip = 0.2, .eps_clip_higher = 0.28});
}

BOOST_AUTO_TEST_CASE(bounds_the_loss_of_bad_actions) { check({.dual_clip = 1.5}); }

BOOST_AUTO_TEST_CASE(drops_tokens_of_large_importance_weight) {
  check({.behaviour_weight_cap = 1.2});
}

BOOST_AUTO_TEST_CASE(takes_one_ratio_a_sequence) {
  check({.dual_clip = 3.0, .behaviour_weight_cap = 5.0, .sequence_ratio = true});
}

BOOST_AUTO_TEST_CASE(is_the_negative_advantage_on_policy) {
  PolicyBatch batch = make_batch(log_probs(1));
  batch.proximal_log_probs = batch.behaviour_log_probs = batch.log_probs;
  const at::Tensor losses = policy_loss(batch, {});
  const at::Tensor expected = noise({kTokens}, 4).neg().mul(batch.mask);
  BOOST_TEST(losses.sub(expected).abs().max().item<double>() < 1e-15);
}

BOOST_AUTO_TEST_SUITE_END()
