// Rewards, advantages and returns: examples worked by hand, formulas by brute force, properties.
#include "archon/loss/advantages.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "support.hpp"
#include "support/tensors.hpp"

using archon::AdvantageOptions;
using archon::Advantages;
using archon::compute_advantages;
using archon::gae;
using archon::KlEstimator;
using archon::normalise_rewards;
using archon::RewardNorm;
using archon::RewardOptions;
using archon::Rollouts;
using archon::shape_rewards;
using archon::token_rewards;
using archon::whiten;
using archon::Whitening;
using namespace archon::test;

namespace {

constexpr int64_t kTokens = 40;
// One sequence of a single token that is a target, one without any, and one with a gap.
const std::vector<int64_t> kOffsets = {0, 12, 13, 20, 40};

bool is_target(int64_t t) {
  if (t < 12) return t > 3;
  if (t < 13) return true;
  return t >= 20 && t > 22 && !(t >= 29 && t < 33);
}

const at::Tensor kMask = mask_of(kTokens, is_target);

std::vector<int64_t> targets_of(int64_t sequence) {
  std::vector<int64_t> targets;
  for (int64_t t = kOffsets[sequence]; t < kOffsets[sequence + 1]; ++t)
    if (is_target(t)) targets.push_back(t);
  return targets;
}

Rollouts make_rollouts() {
  return {tensor_of({1, 0, 2, 0.5}),
          {7, 3, 7, 3},
          kMask,
          kOffsets,
          spoiled(noise({kTokens}, 1), kMask),
          spoiled(noise({kTokens}, 2), kMask),
          spoiled(noise({kTokens}, 3), kMask)};
}

/// The same sequences in another order.
Rollouts permuted(const Rollouts& all, const std::vector<int64_t>& order) {
  Rollouts result;
  result.cu_seqlens = {0};
  std::vector<at::Tensor> rewards, mask, log_probs, reference, values;
  for (const int64_t i : order) {
    const int64_t begin = all.cu_seqlens[i], length = all.cu_seqlens[i + 1] - begin;
    result.group_ids.push_back(all.group_ids[i]);
    result.cu_seqlens.push_back(result.cu_seqlens.back() + length);
    rewards.push_back(all.rewards.narrow(0, i, 1));
    mask.push_back(all.mask.narrow(0, begin, length));
    log_probs.push_back(all.log_probs.narrow(0, begin, length));
    reference.push_back(all.reference_log_probs.narrow(0, begin, length));
    values.push_back(all.values.narrow(0, begin, length));
  }
  result.rewards = at::cat(rewards);
  result.mask = at::cat(mask);
  result.log_probs = at::cat(log_probs);
  result.reference_log_probs = at::cat(reference);
  result.values = at::cat(values);
  return result;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(advantages)

BOOST_AUTO_TEST_CASE(rewards_are_moved_scaled_and_clipped) {
  const at::Tensor lengths = tensor_of({1, 1, 1});
  const RewardOptions options{.bias = -0.5, .scale = 4, .clip = 3};
  check_equal(shape_rewards(tensor_of({0, 1, 2}), lengths, options), {-2, 2, 3});
  check_equal(shape_rewards(tensor_of({0, 1, 2}), lengths, {}), {0, 1, 2});
}

BOOST_AUTO_TEST_CASE(long_answers_are_punished_softly) {
  // Free up to 6 targets, then a quarter more for each, all from 10 on.
  const RewardOptions options{.overlong_length = 10, .overlong_buffer = 4, .overlong_penalty = 2};
  check_equal(shape_rewards(at::zeros({7}), tensor_of({1, 6, 7, 9, 10, 11, 100}), options),
              {0, 0, -0.5, -1.5, -2, -2, -2});
}

BOOST_AUTO_TEST_CASE(answer_lengths_count_targets) {
  check_equal(archon::answer_lengths(kMask, kOffsets), {8, 1, 0, 13});
}

BOOST_AUTO_TEST_CASE(rewards_are_normalised_as_worked_by_hand) {
  // Group 5 holds 1, 3, 5: mean 3, deviation sqrt(8/3). Group 2 holds 2, 2.
  const at::Tensor rewards = tensor_of({1, 2, 3, 2, 5});
  const std::vector<int64_t> groups = {5, 2, 5, 2, 5};
  const double deviation = std::sqrt(8.0 / 3) + 1e-6;
  check_equal(normalise_rewards(rewards, groups, RewardNorm::none, true), {1, 2, 3, 2, 5});
  check_equal(normalise_rewards(rewards, groups, RewardNorm::group, true),
              {-2 / deviation, 0, 0, 0, 2 / deviation});
  check_equal(normalise_rewards(rewards, groups, RewardNorm::group, false), {-2, 0, 0, 0, 2});
  check_equal(normalise_rewards(rewards, groups, RewardNorm::leave_one_out, false),
              {-3, 0, 0, 0, 3});
  const double spread = std::sqrt(46.0 / 25) + 1e-6;  // Σ (r − 2.6)² = 9.2
  check_equal(normalise_rewards(rewards, {}, RewardNorm::batch, true),
              {-1.6 / spread, -0.6 / spread, 0.4 / spread, -0.6 / spread, 2.4 / spread});
  check_equal(normalise_rewards(rewards, {}, RewardNorm::batch, false),
              {-1.6, -0.6, 0.4, -0.6, 2.4});
}

// Even where the mean of equal rewards is not exactly that reward.
BOOST_AUTO_TEST_CASE(groups_without_variance_have_no_advantage) {
  const at::Tensor rewards = tensor_of({0.1, 0.1, 0.1}), zeros = at::zeros({3}, at::kDouble);
  for (const RewardNorm norm : {RewardNorm::group, RewardNorm::batch, RewardNorm::leave_one_out})
    for (const bool divide : {true, false})
      BOOST_TEST(normalise_rewards(rewards, {1, 1, 1}, norm, divide).equal(zeros));
}

BOOST_AUTO_TEST_CASE(groups_of_one_are_refused_where_others_are_needed) {
  const at::Tensor rewards = tensor_of({1, 2, 3});
  const std::vector<int64_t> groups = {4, 9, 4};
  const std::vector<std::string> words = {"group 9", "sequence, 1", "sample several"};
  check_refused([&] { normalise_rewards(rewards, groups, RewardNorm::group, true); }, words);
  check_refused([&] { normalise_rewards(rewards, groups, RewardNorm::leave_one_out, false); },
                words);
  check_refused([&] { normalise_rewards(tensor_of({1}), {}, RewardNorm::batch, true); },
                {"sequence 0", "more sequences"});
  check_equal(normalise_rewards(rewards, groups, RewardNorm::group, false), {-1, 0, 1});
}

BOOST_AUTO_TEST_CASE(the_reward_falls_on_the_last_target_and_the_divergence_on_all) {
  const Rollouts rollouts = make_rollouts();
  const std::vector<double> p = numbers(noise({kTokens}, 1)), q = numbers(noise({kTokens}, 2));
  for (const double coefficient : {0.0, 0.3}) {
    std::vector<double> want(kTokens, 0.0);
    for (int64_t t = 0; t < kTokens; ++t)
      if (is_target(t)) want[t] = -coefficient * (std::exp(q[t] - p[t]) - 1 - (q[t] - p[t]));
    want[11] += 1, want[12] += 0, want[39] += 0.5;  // the third sequence has no target
    check_equal(token_rewards(rollouts.rewards, rollouts, coefficient, KlEstimator::k3), want);
  }
}

BOOST_AUTO_TEST_CASE(advantages_are_estimated_as_worked_by_hand) {
  // Targets 1 and 3 of four tokens: δ = 5 + 0 − 3 = 2 at the last; 1 + 0.5·3 − 2 = 0.5 before it.
  const at::Tensor mask = mask_of(4, [](int64_t t) { return t % 2 == 1; });
  const Advantages got =
      gae(tensor_of({9, 1, 9, 5}), tensor_of({9, 2, 9, 3}), mask, {0, 4}, 0.5, 0.4);
  check_equal(got.advantages, {0, 0.5 + 0.2 * 2, 0, 2});
  check_equal(got.returns, {0, 2.9, 0, 5});
}

BOOST_AUTO_TEST_CASE(advantages_equal_the_sum_of_discounted_errors) {
  const double gamma = 0.9, lambda = 0.8;
  const at::Tensor rewards = noise({kTokens}, 5), values = noise({kTokens}, 6);
  const Advantages got =
      gae(spoiled(rewards, kMask), spoiled(values, kMask), kMask, kOffsets, gamma, lambda);
  const std::vector<double> r = numbers(rewards), v = numbers(values);
  std::vector<double> want(kTokens, 0.0), returns(kTokens, 0.0);
  for (int64_t sequence = 0; sequence < 4; ++sequence) {
    const std::vector<int64_t> targets = targets_of(sequence);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      for (std::size_t j = i; j < targets.size(); ++j) {
        const double next = j + 1 < targets.size() ? v[targets[j + 1]] : 0.0;
        want[targets[i]] += std::pow(gamma * lambda, static_cast<double>(j - i)) *
                            (r[targets[j]] + gamma * next - v[targets[j]]);
      }
      returns[targets[i]] = want[targets[i]] + v[targets[i]];
    }
  }
  check_equal(got.advantages, want);
  check_equal(got.returns, returns);
}

BOOST_AUTO_TEST_CASE(without_critic_and_discount_they_are_the_rewards_to_go) {
  const Rollouts rollouts = make_rollouts();
  const Advantages got =
      gae(token_rewards(rollouts.rewards, rollouts, 0, KlEstimator::k1), {}, kMask, kOffsets, 1, 1);
  std::vector<double> want(kTokens, 0.0);
  for (int64_t sequence = 0; sequence < 4; ++sequence)
    for (const int64_t t : targets_of(sequence)) want[t] = numbers(rollouts.rewards)[sequence];
  check_equal(got.advantages, want);
  check_equal(got.returns, want);
}

BOOST_AUTO_TEST_CASE(whitening_leaves_mean_zero_and_deviation_one) {
  // Of 1, 3, 5: mean 3, deviation sqrt(8/3).
  const at::Tensor mask = mask_of(4, [](int64_t t) { return t != 2; });
  const at::Tensor x = spoiled(tensor_of({1, 3, 0, 5}), mask);
  const double deviation = std::sqrt(8.0 / 3) + 1e-5;
  check_equal(whiten(x, mask, Whitening::full), {-2 / deviation, 0, 0, 2 / deviation});
  check_equal(whiten(x, mask, Whitening::scale), {1 / deviation, 3 / deviation, 0, 5 / deviation});
  check_equal(whiten(x, mask, Whitening::none), {1, 3, 0, 5});
  const at::Tensor none = at::zeros({4}, at::kBool);
  check_equal(whiten(x, none, Whitening::full), {0, 0, 0, 0});
  const at::Tensor alike = spoiled(tensor_of({0.5, 0.5, 0, 0.5}), mask);
  check_equal(whiten(alike, mask, Whitening::scale), {0.5, 0.5, 0, 0.5});
  check_equal(whiten(alike, mask, Whitening::full), {0, 0, 0, 0});
}

BOOST_AUTO_TEST_CASE(the_order_of_sequences_does_not_matter) {
  const AdvantageOptions options{
      .reward = {.bias = 0.1, .overlong_length = 10, .overlong_buffer = 5},
      .kl_coefficient = 0.2,
      .gamma = 0.95,
      .lambda = 0.9,
      .whitening = Whitening::full};
  const Rollouts rollouts = make_rollouts();
  const std::vector<int64_t> order = {2, 3, 1, 0};
  const Advantages plain = compute_advantages(rollouts, options);
  const Advantages moved = compute_advantages(permuted(rollouts, order), options);
  int64_t begin = 0;
  for (const int64_t i : order) {
    const int64_t length = kOffsets[i + 1] - kOffsets[i];
    check_equal(moved.advantages.narrow(0, begin, length),
                numbers(plain.advantages.narrow(0, kOffsets[i], length)));
    check_equal(moved.returns.narrow(0, begin, length),
                numbers(plain.returns.narrow(0, kOffsets[i], length)));
    begin += length;
  }
}

BOOST_AUTO_TEST_CASE(the_whole_way_gives_grpo) {
  Rollouts rollouts = make_rollouts();
  rollouts.log_probs = rollouts.reference_log_probs = rollouts.values = at::Tensor();
  const Advantages got = compute_advantages(rollouts, {});
  const double of_group_7 = 0.5 / (0.5 + 1e-6), of_group_3 = 0.25 / (0.25 + 1e-6);
  std::vector<double> want(kTokens, 0.0);
  for (const int64_t t : targets_of(0)) want[t] = -of_group_7;
  for (const int64_t t : targets_of(1)) want[t] = -of_group_3;
  for (const int64_t t : targets_of(3)) want[t] = of_group_3;
  check_equal(got.advantages, want);
}

BOOST_AUTO_TEST_CASE(float32_inputs_are_widened) {
  const Rollouts rollouts = make_rollouts();
  Rollouts narrow = rollouts;
  for (at::Tensor* x :
       {&narrow.rewards, &narrow.log_probs, &narrow.reference_log_probs, &narrow.values})
    *x = x->to(at::kFloat);
  const AdvantageOptions options{.kl_coefficient = 0.1, .whitening = Whitening::full};
  const at::Tensor got = compute_advantages(narrow, options).advantages;
  BOOST_TEST((got.scalar_type() == at::kDouble));
  check_equal(got, numbers(compute_advantages(rollouts, options).advantages), 1e-5);
}

BOOST_AUTO_TEST_CASE(senseless_options_are_refused) {
  const auto refused = [](const AdvantageOptions& options, const std::vector<std::string>& words) {
    check_refused([&] { validate(options); }, words);
  };
  refused({.reward = {.clip = -1}}, {"magnitude of -1"});
  refused({.reward = {.scale = 0}}, {"scale of 0"});
  refused({.reward = {.overlong_length = 8}}, {"--overlong-buffer 0", "--overlong-length 8"});
  refused({.reward = {.overlong_length = 8, .overlong_buffer = 9}}, {"--overlong-buffer 9"});
  refused({.kl_coefficient = -0.5}, {"coefficient -0.5"});
  refused({.gamma = 1.1}, {"gamma 1.1"});
  refused({.lambda = -0.1}, {"lambda -0.1"});
  BOOST_CHECK_NO_THROW(validate(AdvantageOptions{}));
}

BOOST_AUTO_TEST_SUITE_END()
