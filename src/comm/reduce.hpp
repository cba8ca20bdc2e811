#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "archon/comm/communicator.hpp"

namespace archon {

/// Reduces `blocks`, each [elements], in order into `output` [elements] of the same type, which may
/// be one of them; bfloat16 and float16 accumulate in float32 and round once, or not at all where
/// the output is float32.
void reduce_blocks(at::Tensor output, const std::vector<at::Tensor>& blocks, ReduceOp op);

}  // namespace archon
