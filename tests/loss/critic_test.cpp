#include "archon/loss/critic.hpp"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "support/tensors.hpp"

using archon::critic_loss_sum;
using archon::test::leaf;
using archon::test::noise;

namespace {

/// Value and derivative of one token's loss, from the definition.
std::pair<double, double> token_loss(double value, double old, double target, double clip) {
  const double plain = 0.5 * (value - target) * (value - target);
  if (clip == 0) return {plain, value - target};
  const double moved = old + std::clamp(value - old, -clip, clip);
  const double clipped = 0.5 * (moved - target) * (moved - target);
  // Beyond the clip the clipped error does not depend on the value.
  const bool inside = std::abs(value - old) <= clip;
  if (clipped > plain) return {clipped, inside ? moved - target : 0.0};
  return {plain, value - target};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(critic)

BOOST_AUTO_TEST_CASE(equals_the_definition) {
  const int64_t tokens = 200;
  const at::Tensor old_values = noise({tokens}, 1), returns = noise({tokens}, 2),
                   mask = noise({tokens}, 3).gt(-0.3);
  for (const double clip : {0.0, 0.1, 0.5, 10.0}) {
    const at::Tensor values = leaf(noise({tokens}, 4).to(at::kFloat));
    const at::Tensor loss =
        critic_loss_sum(values, old_values.to(at::kFloat), returns.to(at::kFloat), mask, clip);
    loss.backward();
    double want = 0;
    at::Tensor want_grad = at::zeros({tokens}, at::kDouble);
    for (int64_t t = 0; t < tokens; ++t) {
      if (!mask[t].item<bool>()) continue;
      const auto [value, derivative] = token_loss(
          values[t].item<double>(), old_values[t].item<double>(), returns[t].item<double>(), clip);
      want += value;
      want_grad[t] = derivative;
    }
    BOOST_TEST((loss.scalar_type() == at::kDouble));
    BOOST_CHECK_CLOSE(loss.item<double>(), want, 1e-4);
    ARCHON_CHECK_NEAR(values.grad(), want_grad, 1e-5);
  }
}

BOOST_AUTO_TEST_CASE(without_targets_it_is_zero) {
  const at::Tensor values = leaf(noise({5}, 1).to(at::kFloat)), zeros = at::zeros({5});
  const at::Tensor loss = critic_loss_sum(values, zeros, zeros, zeros.to(at::kBool), 0.2);
  loss.backward();
  BOOST_TEST(loss.item<double>() == 0);
  BOOST_TEST(values.grad().eq(0).all().item<bool>());
}

BOOST_AUTO_TEST_SUITE_END()
