// Policy losses against the formula token by token, and their gradient by finite differences.
#include "archon/loss/policy.hpp"

#include <ATen/ops/sum.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>

#include "support.hpp"
#include "support/tensors.hpp"

using archon::policy_loss;
using archon::PolicyBatch;
using archon::PolicyLoss;
using archon::PolicyLossOptions;
using archon::Surrogate;
using namespace archon::test;

namespace {

constexpr int64_t kTokens = 60;
// One sequence of a single token, one without any target, and padding at the end.
const std::vector<int64_t> kOffsets = {0, 20, 21, 33, 55};

bool is_target(int64_t t) { return t < 55 && t % 3 != 1 && !(t >= 21 && t < 33); }

at::Tensor log_probs(int seed) { return noise({kTokens}, seed).mul(0.8).sub(3.0); }

const at::Tensor kMask = mask_of(kTokens, is_target);

/// Where there is no target the inputs hold NaN, which must not matter.
PolicyBatch make_batch(const at::Tensor& current) {
  return {current,
          spoiled(log_probs(2), kMask),
          spoiled(log_probs(3), kMask),
          spoiled(noise({kTokens}, 4), kMask),
          kMask,
          kOffsets};
}

/// Mean over the targets of the sequence of token t.
double sequence_mean(const std::vector<double>& x, int64_t t) {
  const auto end = std::upper_bound(kOffsets.begin(), kOffsets.end(), t);
  double sum = 0, count = 0;
  for (int64_t i = *(end - 1); i < *end; ++i)
    if (is_target(i)) sum += x[i], ++count;
  return sum / count;
}

/// What PolicyLoss holds, by the definition.
struct Reference {
  std::vector<double> loss, ratio, clipped_low, clipped_high, dual_clipped, behaviour_weight,
      capped;
};

double clipped_loss(double r, double a, const PolicyLossOptions& options) {
  double clipped = r;
  if (r < 1 - options.eps_clip) clipped = 1 - options.eps_clip;
  if (r > 1 + options.eps_clip_higher) clipped = 1 + options.eps_clip_higher;
  const double loss = -std::min(a * r, a * clipped);
  return options.dual_clip > 0 && a < 0 ? std::min(loss, -options.dual_clip * a) : loss;
}

double soft_loss(double r, double a, const PolicyLossOptions& options) {
  const double tau = a > 0 ? options.sapo_tau_positive : options.sapo_tau_negative;
  return -a * 4 / (tau * (1 + std::exp(-tau * (r - 1))));
}

Reference reference(const std::vector<double>& current, const PolicyLossOptions& options) {
  const std::vector<double> proximal = numbers(log_probs(2)), behaviour = numbers(log_probs(3)),
                            advantages = numbers(noise({kTokens}, 4));
  std::vector<double> log_ratio(kTokens);
  for (int64_t t = 0; t < kTokens; ++t) log_ratio[t] = current[t] - proximal[t];
  const std::vector<double> none(kTokens, 0.0);
  Reference want{none, none, none, none, none, none, none};
  for (int64_t t = 0; t < kTokens; ++t) {
    if (!is_target(t)) continue;
    const double a = options.sequence_ratio ? sequence_mean(advantages, t) : advantages[t];
    const double r = std::exp(options.sequence_ratio ? sequence_mean(log_ratio, t) : log_ratio[t]);
    const bool clips = options.surrogate == Surrogate::clip;
    const double weight = std::exp(proximal[t] - behaviour[t]);
    want.ratio[t] = r;
    want.clipped_low[t] = clips && r < 1 - options.eps_clip && a < 0;
    want.clipped_high[t] = clips && r > 1 + options.eps_clip_higher && a > 0;
    want.dual_clipped[t] = options.dual_clip > 0 && r > options.dual_clip && a < 0;
    want.behaviour_weight[t] = weight;
    want.capped[t] = options.behaviour_weight_cap > 0 && weight > options.behaviour_weight_cap;
    if (want.capped[t] == 0)
      want.loss[t] = weight * (clips ? clipped_loss(r, a, options) : soft_loss(r, a, options));
  }
  return want;
}

/// Returns what was found, for tests of what must have happened in it.
PolicyLoss check(const PolicyLossOptions& options) {
  BOOST_CHECK_NO_THROW(validate(options));
  const std::vector<double> x = numbers(log_probs(1));
  const at::Tensor current = leaf(spoiled(log_probs(1), kMask));
  const PolicyLoss got = policy_loss(make_batch(current), options);
  const Reference want = reference(x, options);
  check_equal(got.loss, want.loss);
  check_equal(got.ratio, want.ratio);
  check_equal(got.clipped_low, want.clipped_low);
  check_equal(got.clipped_high, want.clipped_high);
  check_equal(got.dual_clipped, want.dual_clipped);
  check_equal(got.behaviour_weight, want.behaviour_weight);
  check_equal(got.capped, want.capped);
  BOOST_TEST(!got.ratio.requires_grad());
  got.loss.sum().backward();
  check_gradient(current.grad(), x, [&](const std::vector<double>& shifted) {
    const std::vector<double> losses = reference(shifted, options).loss;
    return std::accumulate(losses.begin(), losses.end(), 0.0);
  });
  return got;
}

bool some(const at::Tensor& x) { return x.any().item<bool>(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(policy)

BOOST_AUTO_TEST_CASE(clips_ratios_on_both_sides) {
  const PolicyLoss got = check({.eps_clip = 0.2, .eps_clip_higher = 0.28});
  BOOST_TEST(some(got.clipped_low));
  BOOST_TEST(some(got.clipped_high));
}

BOOST_AUTO_TEST_CASE(bounds_the_loss_of_bad_actions) {
  BOOST_TEST(some(check({.dual_clip = 1.5}).dual_clipped));
}

BOOST_AUTO_TEST_CASE(drops_tokens_of_large_importance_weight) {
  BOOST_TEST(some(check({.behaviour_weight_cap = 1.2}).capped));
}

BOOST_AUTO_TEST_CASE(takes_one_ratio_a_sequence) {
  check({.dual_clip = 3.0, .behaviour_weight_cap = 5.0, .sequence_ratio = true});
}

BOOST_AUTO_TEST_CASE(gates_ratios_softly) {
  check({.surrogate = Surrogate::sapo});
  check({.behaviour_weight_cap = 1.2,
         .surrogate = Surrogate::sapo,
         .sapo_tau_positive = 0.5,
         .sapo_tau_negative = 3.0});
}

// On policy its gradient is that of the policy gradient, whatever the temperature.
BOOST_AUTO_TEST_CASE(the_soft_gate_is_open_on_policy) {
  const at::Tensor current = leaf(log_probs(1));
  PolicyBatch batch = make_batch(current);
  batch.proximal_log_probs = batch.behaviour_log_probs = current.detach();
  policy_loss(batch, {.surrogate = Surrogate::sapo, .sapo_tau_negative = 2.0})
      .loss.sum()
      .backward();
  check_equal(current.grad(), numbers(noise({kTokens}, 4).neg().mul(kMask)));
}

BOOST_AUTO_TEST_CASE(is_the_negative_advantage_on_policy) {
  PolicyBatch batch = make_batch(log_probs(1));
  batch.proximal_log_probs = batch.behaviour_log_probs = batch.log_probs;
  check_equal(policy_loss(batch, {}).loss, numbers(noise({kTokens}, 4).neg().mul(kMask)), 1e-15);
}

BOOST_AUTO_TEST_CASE(refuses_options_that_exclude_each_other) {
  const auto refused = [](const PolicyLossOptions& options, const std::vector<std::string>& words) {
    check_refused([&] { validate(options); }, words);
  };
  refused({.dual_clip = 0.5}, {"--dual-clip 0.5", "above 1"});
  refused({.dual_clip = 3, .surrogate = Surrogate::sapo}, {"--dual-clip 3", "--loss sapo"});
  refused({.sequence_ratio = true, .surrogate = Surrogate::sapo},
          {"--ratio sequence", "--loss sapo"});
  refused({.surrogate = Surrogate::sapo, .sapo_tau_positive = 0}, {"0 (positive", "1.05"});
  refused({.surrogate = Surrogate::sapo, .sapo_tau_negative = -1}, {"-1 (negative"});
}

BOOST_AUTO_TEST_SUITE_END()
