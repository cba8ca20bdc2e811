#pragma once

#include <ATen/core/Tensor.h>

namespace archon {

/// Estimators of KL(p ‖ q) from the probabilities of tokens drawn from p; x = log p − log q
/// (Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html).
enum class KlEstimator {
  k1,  ///< x: unbiased, of either sign
  k2,  ///< x²/2: biased, small variance
  k3   ///< exp(−x) − 1 + x: unbiased, never negative
};

double kl_estimate(double log_p, double log_q, KlEstimator estimator);

/// Per token: float64 [T], 0 where `mask` (bool [T]) is false, whatever the others hold there.
/// Differentiable in both.
at::Tensor kl_estimate(const at::Tensor& log_p, const at::Tensor& log_q, const at::Tensor& mask,
                       KlEstimator estimator);

}  // namespace archon
