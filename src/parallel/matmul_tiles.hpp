#pragma once

#include <ATen/core/Tensor.h>

namespace archon {

/// Whether multiply_in_tiles takes these operands: bfloat16 that both lie transposed (the product is
/// a weight's gradient), on a processor with tiles for it (AMX).
bool are_multiplied_in_tiles(const at::Tensor& a, const at::Tensor& b);

/// a [m, k] times the transpose of b [n, k]: [m, n], summed in float32 and rounded once. oneDNN, as
/// LibTorch has it, reaches half the speed with such operands that it has with others
/// (docs/performance.md).
at::Tensor multiply_in_tiles(const at::Tensor& a, const at::Tensor& b);

}  // namespace archon
