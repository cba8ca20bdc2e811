#include "device_attention.hpp"

#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "archon/parallel/recompute.hpp"

namespace archon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Queries, keys and values of the tokens in sequences: views [tokens, heads, head_dim].
struct Qkv {
  Qkv(const at::Tensor& qkv, int64_t begin, int64_t length, int64_t heads, int64_t kv_heads)
      : query(qkv.narrow(0, begin, length).narrow(1, 0, heads)),
        key(qkv.narrow(0, begin, length).narrow(1, heads, kv_heads)),
        value(qkv.narrow(0, begin, length).narrow(1, heads + kv_heads, kv_heads)) {}
  at::Tensor query, key, value;
};

int64_t longest(const std::vector<int64_t>& cu_seqlens) {
  int64_t longest = 0;
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i)
    longest = std::max(longest, cu_seqlens[i + 1] - cu_seqlens[i]);
  return longest;
}

at::Tensor offsets_on(const at::Device& device, const std::vector<int64_t>& cu_seqlens) {
  const std::vector<int> offsets(cu_seqlens.begin(), cu_seqlens.end());
  return at::tensor(offsets, at::kInt).to(device, at::kInt, /*non_blocking=*/true);
}

/// x with zeros for the padding behind it.
at::Tensor padded(const at::Tensor& x, int64_t tokens) {
  if (x.size(0) == tokens) return x;
  auto shape = x.sizes().vec();
  shape[0] = tokens - x.size(0);
  return at::cat({x, at::zeros(shape, x.options())});
}

struct FlashAttention : torch::autograd::Function<FlashAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv,
                            const std::vector<int64_t>& cu_seqlens, int64_t heads,
                            int64_t kv_heads) {
    const at::Tensor offsets = offsets_on(qkv.device(), cu_seqlens);
    const int64_t tokens = cu_seqlens.back(), length = longest(cu_seqlens);
    const Qkv x(qkv, 0, tokens, heads, kv_heads);
    // Output, log-sum-exp, and a random state that no dropout uses.
    const variable_list results = recomputation::reuse([&] {
      auto [out, log_sum_exp, state, unused, mask] = at::_flash_attention_forward(
          x.query, x.key, x.value, offsets, offsets, length, length, /*dropout_p=*/0.0,
          /*is_causal=*/true, /*return_debug_mask=*/false);
      return variable_list{out, log_sum_exp, state, unused};
    });
    context->save_for_backward({qkv, offsets, results[0], results[1], results[2], results[3]});
    context->saved_data["longest"] = length;
    context->saved_data["kv_heads"] = kv_heads;
    return padded(results[0], qkv.size(0));
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &qkv = saved[0], &offsets = saved[1], &out = saved[2];
    const int64_t tokens = out.size(0), heads = out.size(1);
    const int64_t length = context->saved_data["longest"].toInt();
    const Qkv x(qkv, 0, tokens, heads, context->saved_data["kv_heads"].toInt());
    const auto [query, key, value] = at::_flash_attention_backward(
        grads[0].narrow(0, 0, tokens).contiguous(), x.query, x.key, x.value, out, saved[3], offsets,
        offsets, length, length, /*dropout_p=*/0.0, /*is_causal=*/true, saved[4], saved[5]);
    return {padded(at::cat({query, key, value}, 1), qkv.size(0)), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

/// [tokens, heads, head_dim] to the [1, heads, tokens, head_dim] that LibTorch takes.
at::Tensor heads_first(const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); }

at::Tensor attention_by_sequence(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                                 int64_t heads, int64_t kv_heads) {
  variable_list outputs;
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const Qkv x(qkv, cu_seqlens[i], cu_seqlens[i + 1] - cu_seqlens[i], heads, kv_heads);
    const at::Tensor out = at::scaled_dot_product_attention(
        heads_first(x.query), heads_first(x.key), heads_first(x.value), /*attn_mask=*/{},
        /*dropout_p=*/0.0, /*is_causal=*/true, /*scale=*/std::nullopt,
        /*enable_gqa=*/heads != kv_heads);
    outputs.push_back(out.squeeze(0).transpose(0, 1));
  }
  if (outputs.empty()) {  // nothing but padding: zeros that autograd knows, whatever lies there
    const at::Tensor all = at::ones({}, qkv.options().dtype(at::kBool));
    return qkv.narrow(1, 0, heads).masked_fill(all, 0);
  }
  return padded(at::cat(outputs), qkv.size(0)).contiguous();
}

}  // namespace

at::Tensor device_attention(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                            int64_t heads, int64_t kv_heads) {
  // What LibTorch's flash attention takes.
  const int64_t head_dim = qkv.size(2);
  const bool flash = qkv.is_cuda() && qkv.scalar_type() == at::kBFloat16 && head_dim % 8 == 0 &&
                     head_dim <= 256 && cu_seqlens.back() > 0;
  return flash ? FlashAttention::apply(qkv, cu_seqlens, heads, kv_heads)
               : attention_by_sequence(qkv, cu_seqlens, heads, kv_heads);
}

}  // namespace archon
