// The critic's loss against its definition token by token, and its gradient by finite differences.
#include "archon/loss/critic.hpp"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>

#include "support.hpp"
#include "support/tensors.hpp"

using archon::critic_loss;
using archon::CriticLossOptions;
using archon::ValueError;
using namespace archon::test;

namespace {

constexpr int64_t kTokens = 200;

bool is_target(int64_t t) { return t % 4 != 3; }

const at::Tensor kMask = mask_of(kTokens, is_target);
const std::vector<double> kOld = numbers(noise({kTokens}, 1)),
                          kReturns = numbers(noise({kTokens}, 2));

double penalty(double error, const CriticLossOptions& options) {
  const double size = std::abs(error), delta = options.huber_delta;
  if (options.error == ValueError::huber && size > delta) return delta * size - delta * delta / 2;
  return size * size / 2;
}

std::vector<double> formula(const std::vector<double>& values, const CriticLossOptions& options) {
  std::vector<double> losses(kTokens, 0.0);
  for (int64_t t = 0; t < kTokens; ++t) {
    if (!is_target(t)) continue;
    losses[t] = penalty(values[t] - kReturns[t], options);
    if (options.eps_clip == 0) continue;
    const double moved =
        std::clamp(values[t], kOld[t] - options.eps_clip, kOld[t] + options.eps_clip);
    losses[t] = std::max(losses[t], penalty(moved - kReturns[t], options));
  }
  return losses;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(critic)

BOOST_AUTO_TEST_CASE(equals_its_definition) {
  const std::vector<double> x = numbers(noise({kTokens}, 4));
  for (const ValueError error : {ValueError::mse, ValueError::huber})
    for (const double clip : {0.0, 0.1, 0.5, 10.0}) {
      const CriticLossOptions options{clip, error, 0.3};
      const at::Tensor values = leaf(spoiled(tensor_of(x), kMask));
      const auto got = critic_loss(
          {values, spoiled(tensor_of(kOld), kMask), spoiled(tensor_of(kReturns), kMask), kMask},
          options);
      check_equal(got.loss, formula(x, options));
      got.loss.sum().backward();
      check_gradient(values.grad(), x, [&](const std::vector<double>& shifted) {
        const std::vector<double> losses = formula(shifted, options);
        return std::accumulate(losses.begin(), losses.end(), 0.0);
      });
      const std::vector<double> plain = formula(x, {0.0, error, 0.3});
      for (int64_t t = 0; t < kTokens; ++t)
        BOOST_TEST(got.clipped.const_data_ptr<bool>()[t] == (formula(x, options)[t] > plain[t]));
      BOOST_TEST(got.clipped.any().item<bool>() == (clip > 0 && clip < 1));
    }
}

BOOST_AUTO_TEST_CASE(float32_values_are_widened) {
  const at::Tensor values = leaf(noise({kTokens}, 4).to(at::kFloat));
  const at::Tensor loss =
      critic_loss({values, tensor_of(kOld), tensor_of(kReturns), kMask}, {.eps_clip = 0.1}).loss;
  BOOST_TEST((loss.scalar_type() == at::kDouble));
  loss.sum().backward();
  BOOST_TEST((values.grad().scalar_type() == at::kFloat));
}

BOOST_AUTO_TEST_CASE(without_targets_it_is_zero) {
  const at::Tensor values = leaf(noise({5}, 1).to(at::kFloat)), zeros = at::zeros({5});
  const at::Tensor loss =
      critic_loss({values, zeros, zeros, zeros.to(at::kBool)}, {.eps_clip = 0.2}).loss.sum();
  loss.backward();
  BOOST_TEST(loss.item<double>() == 0);
  BOOST_TEST(values.grad().eq(0).all().item<bool>());
}

BOOST_AUTO_TEST_CASE(refuses_senseless_options) {
  check_refused([] { validate(CriticLossOptions{.eps_clip = -0.1}); }, {"--value-eps-clip -0.1"});
  for (const double delta : {0.0, -1.0})
    check_refused(
        [&] { validate(CriticLossOptions{.error = ValueError::huber, .huber_delta = delta}); },
        {"Huber", "delta " + std::to_string(static_cast<int>(delta)), "squared error"});
  BOOST_CHECK_NO_THROW(validate(CriticLossOptions{.huber_delta = 0}));
}

BOOST_AUTO_TEST_SUITE_END()
