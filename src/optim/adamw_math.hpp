#pragma once

#include <cmath>

#include "archon/base/host_device.hpp"
#include "archon/base/simd.hpp"

/// The arithmetic of AdamW for one element (Loshchilov & Hutter 2019, arXiv:1711.05101), on the CPU and
/// on GPUs.
namespace archon::optim {

/// What one step does to every element, bias corrections folded in.
struct AdamWStep {
  float grad_scale;
  float keep;  ///< 1 - lr·decay
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float step_size;          ///< lr / (1 - beta1^t)
  float inverse_root_bias;  ///< 1 / sqrt(1 - beta2^t)
  float eps;
};

ARCHON_HOST_DEVICE ARCHON_INLINE void adamw_update(float& weight, float grad, float& exp_avg,
                                                   float& exp_avg_sq, const AdamWStep& c) {
  const float g = grad * c.grad_scale;
  const float m = exp_avg + (g - exp_avg) * c.one_minus_beta1;
  const float v = exp_avg_sq * c.beta2 + g * g * c.one_minus_beta2;
  const float denominator = std::sqrt(v) * c.inverse_root_bias + c.eps;
  weight = weight * c.keep - c.step_size * m / denominator;
  exp_avg = m;
  exp_avg_sq = v;
}

}  // namespace archon::optim
