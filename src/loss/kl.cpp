#include "archon/loss/kl.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/expm1.h>

#include <cmath>

#include "archon/base/error.hpp"
#include "targets.hpp"

namespace archon {
namespace {

/// x = log p − log q, a number or a tensor.
template <class T>
T estimate(const T& x, KlEstimator estimator) {
  using std::expm1;
  switch (estimator) {
    case KlEstimator::k1:
      return x;
    case KlEstimator::k2:
      return 0.5 * x * x;
    case KlEstimator::k3:
      // Not exp − 1: most x are small.
      return expm1(-x) + x;
  }
  throw_runtime_failure("no such estimator of the KL divergence");
}

}  // namespace

double kl_estimate(double log_p, double log_q, KlEstimator estimator) {
  return estimate(log_p - log_q, estimator);
}

at::Tensor kl_estimate(const at::Tensor& log_p, const at::Tensor& log_q, const at::Tensor& mask,
                       KlEstimator estimator) {
  return estimate<at::Tensor>(of_targets(log_p, mask) - of_targets(log_q, mask), estimator);
}

}  // namespace archon
