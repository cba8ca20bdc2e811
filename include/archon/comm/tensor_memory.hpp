#pragma once

namespace archon {

/// Gives LibTorch's host tensors of a quarter MiB and more an Arena of their own, for the life of
/// the process: training steps then neither fault their pages in again nor leave gaps between
/// them. Call before the first tensor.
void keep_tensor_memory();

}  // namespace archon
