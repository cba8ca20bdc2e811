#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace archon {

/// packed_attention (archon/model/ops.hpp) of a tensor that is not in host memory: LibTorch's
/// variable-length flash attention (Dao 2023, arXiv:2307.08691) for bfloat16 on CUDA, else its
/// attention of one sequence after the other. Differentiable.
at::Tensor device_attention(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                            int64_t heads, int64_t kv_heads);

}  // namespace archon
