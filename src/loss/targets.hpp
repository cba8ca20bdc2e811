#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>

namespace archon {

/// x in float64, 0 where `mask` is false. What is no target may hold anything, NaN included, so it
/// is put aside before any arithmetic: masking a result would leave NaN in its gradient.
inline at::Tensor of_targets(const at::Tensor& x, const at::Tensor& mask) {
  return at::where(mask, x.to(at::kDouble), 0.0);
}

}  // namespace archon
