#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "archon/model/key_value_cache.hpp"

/// The differentiable operations of a decoder block, each one pass over its operands. Tensors are
/// contiguous, float32 or bfloat16; arithmetic inside is float32.
namespace archon {

/// y = weight · x / sqrt(mean(x²) + eps) (Zhang & Sennrich 2019, arXiv:1910.07467).
/// x [tokens, width], weight [width].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// silu(gate) · up of gate_up [tokens, 2·width] (gate first): [tokens, width]
/// (Shazeer 2020, arXiv:2002.05202).
at::Tensor swiglu(const at::Tensor& gate_up);

/// cos and sin of position · theta^(-2i/head_dim): float32 [tokens, head_dim/2] each.
struct RotaryTable {
  at::Tensor cos, sin;
};
RotaryTable rotary_table(const at::Tensor& positions, int64_t head_dim, double theta);

/// What happens to query and key heads between projection and attention: RMSNorm over head_dim
/// where weights are given (Qwen3), then rotary embedding (Su et al. 2021, arXiv:2104.09864; the
/// halves of a head are the two coordinates, as in HuggingFace). Values pass through.
/// qkv [tokens, heads + 2·kv_heads, head_dim <= 512], both norms [head_dim] or undefined.
at::Tensor query_key_norm_rotary(const at::Tensor& qkv, const at::Tensor& query_norm,
                                 const at::Tensor& key_norm, const RotaryTable& table,
                                 int64_t heads, int64_t kv_heads, double eps);

/// Causal attention within each sequence of a packed stream.
/// qkv [tokens, heads + 2·kv_heads, head_dim]: [tokens, heads, head_dim]. Sequence i is
/// [cu_seqlens[i], cu_seqlens[i+1]); tokens behind the last offset are padding and give zeros.
/// Costs the sum over sequences of length².
at::Tensor packed_attention(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                            int64_t heads, int64_t kv_heads);

/// The same for sequences that go on from what their caches hold: the tokens' keys and values are
/// stored in `layer` of the caches, which were extended by them, and each query sees the cached
/// tokens up to its own. Not differentiable.
at::Tensor cached_attention(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                            int64_t heads, const std::vector<KeyValueCache*>& caches,
                            int64_t layer);

/// What packed_attention's backward holds on the CPU beside operands and their gradients, in bytes
/// for each query head of a sequence: float32 gradients of keys and values.
int64_t attention_backward_bytes(int64_t length, int64_t head_dim);

}  // namespace archon
