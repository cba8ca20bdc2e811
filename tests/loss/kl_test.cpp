// Estimators of the KL divergence against their formulas, and their gradient by finite differences.
#include "archon/loss/kl.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "support.hpp"
#include "support/tensors.hpp"

using archon::kl_estimate;
using archon::KlEstimator;
using namespace archon::test;

namespace {

constexpr int64_t kTokens = 20;

double formula(double log_p, double log_q, KlEstimator estimator) {
  const double ratio = std::exp(log_q - log_p);
  if (estimator == KlEstimator::k1) return -std::log(ratio);
  if (estimator == KlEstimator::k2) return std::pow(std::log(ratio), 2) / 2;
  return ratio - 1 - std::log(ratio);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(kl)

BOOST_AUTO_TEST_CASE(equal_their_formulas) {
  const at::Tensor mask = mask_of(kTokens, [](int64_t t) { return t % 3 != 1; });
  const std::vector<double> p = numbers(noise({kTokens}, 1)), q = numbers(noise({kTokens}, 2));
  for (const KlEstimator estimator : {KlEstimator::k1, KlEstimator::k2, KlEstimator::k3}) {
    const auto all = [&](const std::vector<double>& log_p) {
      std::vector<double> estimates(kTokens, 0.0);
      for (int64_t t = 0; t < kTokens; ++t)
        if (t % 3 != 1) estimates[t] = formula(log_p[t], q[t], estimator);
      return estimates;
    };
    const at::Tensor log_p = leaf(spoiled(tensor_of(p), mask));
    const at::Tensor got = kl_estimate(log_p, spoiled(tensor_of(q), mask), mask, estimator);
    check_equal(got, all(p));
    got.sum().backward();
    check_gradient(log_p.grad(), p, [&](const std::vector<double>& x) {
      double sum = 0;
      for (const double estimate : all(x)) sum += estimate;
      return sum;
    });
    BOOST_TEST(kl_estimate(-1.0, -1.5, estimator) == formula(-1.0, -1.5, estimator),
               boost::test_tools::tolerance(1e-12));
  }
}

BOOST_AUTO_TEST_CASE(k3_keeps_its_digits_near_zero) {
  const double difference = 1e-7;
  BOOST_TEST(kl_estimate(0.0, difference, KlEstimator::k3) == difference * difference / 2,
             boost::test_tools::tolerance(1e-2));
}

// The expectations over p of k1 and k3 are the divergence itself; that of k2 is near.
BOOST_AUTO_TEST_CASE(their_expectation_is_the_divergence) {
  const std::vector<double> p = {0.5, 0.3, 0.2}, q = {0.4, 0.4, 0.2};
  double divergence = 0, k1 = 0, k2 = 0, k3 = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    divergence += p[i] * std::log(p[i] / q[i]);
    k1 += p[i] * kl_estimate(std::log(p[i]), std::log(q[i]), KlEstimator::k1);
    k2 += p[i] * kl_estimate(std::log(p[i]), std::log(q[i]), KlEstimator::k2);
    k3 += p[i] * kl_estimate(std::log(p[i]), std::log(q[i]), KlEstimator::k3);
  }
  BOOST_TEST(k1 == divergence, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(k3 == divergence, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(k2 == divergence, boost::test_tools::tolerance(0.1));
}

BOOST_AUTO_TEST_SUITE_END()
