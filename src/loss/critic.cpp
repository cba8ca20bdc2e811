#include "archon/loss/critic.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/square.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>

namespace archon {

at::Tensor critic_loss_sum(const at::Tensor& values, const at::Tensor& old_values,
                           const at::Tensor& returns, const at::Tensor& mask, double eps_clip) {
  at::Tensor error = (values - returns).square();
  if (eps_clip > 0) {
    const at::Tensor clipped = old_values + (values - old_values).clamp(-eps_clip, eps_clip);
    error = at::maximum(error, (clipped - returns).square());
  }
  return at::where(mask, 0.5 * error, 0.0).sum(at::kDouble).view({1});
}

}  // namespace archon
