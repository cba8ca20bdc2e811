#pragma once

#include <ATen/core/Tensor.h>

namespace archon {

/// sum += part, of equal numbers of elements, both contiguous: `sum` float32, `part` float32 or
/// bfloat16, which is widened on the way (LibTorch's add_ makes a float32 copy of it first).
void accumulate(const at::Tensor& sum, const at::Tensor& part);

}  // namespace archon
