#pragma once

#include <ATen/core/Tensor.h>

#include "adamw_math.hpp"

namespace archon::optim::cuda {

/// A step of AdamW on a GPU, in one pass, on its current stream. All of one size: weight and moments
/// float32, grad float32 or bfloat16.
void adamw_update(const at::Tensor& weight, const at::Tensor& grad, const at::Tensor& exp_avg,
                  const at::Tensor& exp_avg_sq, const AdamWStep& step);

}  // namespace archon::optim::cuda
