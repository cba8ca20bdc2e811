#pragma once

#include <ATen/core/Tensor.h>

#include "archon/comm/communicator.hpp"

namespace archon {

/// Reduces `blocks` [n, elements] over dim 0, in order, into `output` [elements] of the same
/// type; bfloat16 and float16 accumulate in float32 and round once, or not at all where the output
/// is float32.
void reduce_blocks(at::Tensor output, const at::Tensor& blocks, ReduceOp op);

}  // namespace archon
