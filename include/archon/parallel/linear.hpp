#pragma once

#include <ATen/core/Tensor.h>

#include "archon/parallel/recompute.hpp"

namespace archon {

/// y = x weightᵀ + bias, differentiable. x [tokens, in], weight [out, in], bias [out] or
/// undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {},
                  WhenRecomputed use = WhenRecomputed::compute);

}  // namespace archon
