#include "archon/loss/critic.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "archon/base/error.hpp"
#include "targets.hpp"

namespace archon {
namespace {

at::Tensor penalty(const at::Tensor& error, const CriticLossOptions& options) {
  const at::Tensor square = 0.5 * error * error;
  if (options.error == ValueError::mse) return square;
  const at::Tensor size = error.abs();
  const double delta = options.huber_delta;
  return at::where(size.le(delta), square, delta * (size - 0.5 * delta));
}

}  // namespace

void validate(const CriticLossOptions& options) {
  ARCHON_VALIDATE(options.eps_clip >= 0,
                  "--value-eps-clip {} is negative: values cannot be clipped to less than the old "
                  "ones; give a distance, or 0 for no clipping",
                  options.eps_clip);
  ARCHON_VALIDATE(options.error != ValueError::huber || options.huber_delta > 0,
                  "the Huber loss with delta {}: at or below 0 it would be flat or fall with the "
                  "error; give a delta above 0, or take the squared error",
                  options.huber_delta);
}

CriticLoss critic_loss(const CriticBatch& batch, const CriticLossOptions& options) {
  const at::Tensor& mask = batch.mask;
  const at::Tensor values = of_targets(batch.values, mask),
                   returns = of_targets(batch.returns, mask);
  CriticLoss result{penalty(values - returns, options), at::zeros_like(mask)};
  if (options.eps_clip > 0) {
    const at::Tensor old = of_targets(batch.old_values, mask);
    const at::Tensor clipped = old + (values - old).clamp(-options.eps_clip, options.eps_clip);
    const at::Tensor other = penalty(clipped - returns, options);
    result.clipped = other.gt(result.loss);
    result.loss = at::maximum(result.loss, other);
  }
  return result;
}

}  // namespace archon
