#pragma once

#include <ATen/core/Tensor.h>

namespace archon {

/// Σ over mask of 0.5 · max((v − R)², (clip(v) − R)²), clip(v) = old + clamp(v − old, ±eps_clip)
/// (Schulman et al. 2017, arXiv:1707.06347, as implemented for value functions in PPO); no
/// clipping when eps_clip is 0. values, old_values, returns float32 [tokens], mask bool [tokens],
/// all position-aligned. Result float64 [1]; differentiable in values.
at::Tensor critic_loss_sum(const at::Tensor& values, const at::Tensor& old_values,
                           const at::Tensor& returns, const at::Tensor& mask, double eps_clip);

}  // namespace archon
