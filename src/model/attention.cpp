#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "archon/base/error.hpp"
#include "archon/model/ops.hpp"
#include "archon/parallel/recompute.hpp"

namespace archon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Heads [first, first + count) of rows [begin, begin + length) as LibTorch's attention wants
/// them, [1, heads, length, head_dim]: a view.
at::Tensor heads_of(const at::Tensor& x, int64_t begin, int64_t length, int64_t first,
                    int64_t count) {
  return x.narrow(0, begin, length).narrow(1, first, count).transpose(0, 1).unsqueeze(0);
}

struct QueryKeyValue {
  at::Tensor query, key, value;
};

QueryKeyValue split_heads(const at::Tensor& qkv, int64_t begin, int64_t length, int64_t heads,
                          int64_t kv_heads) {
  return {heads_of(qkv, begin, length, 0, heads), heads_of(qkv, begin, length, heads, kv_heads),
          heads_of(qkv, begin, length, heads + kv_heads, kv_heads)};
}

/// The output [tokens, heads, head_dim], and each sequence's log-sum-exp.
variable_list attend(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens, int64_t heads,
                     int64_t kv_heads) {
  variable_list results = {at::empty({qkv.size(0), heads, qkv.size(2)}, qkv.options())};
  const at::Tensor out = results.front();
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t begin = cu_seqlens[i], length = cu_seqlens[i + 1] - begin;
    const auto [query, key, value] = split_heads(qkv, begin, length, heads, kv_heads);
    const auto [result, log_sum_exp] = at::_scaled_dot_product_flash_attention_for_cpu(
        query, key, value, /*dropout_p=*/0.0, /*is_causal=*/true);
    heads_of(out, begin, length, 0, heads).copy_(result);
    results.push_back(log_sum_exp);
  }
  out.narrow(0, cu_seqlens.back(), out.size(0) - cu_seqlens.back()).zero_();
  return results;
}

/// Walks the sequences: LibTorch's flash attention on each one's rows, no mask, no padding.
struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv,
                            const std::vector<int64_t>& cu_seqlens, int64_t heads,
                            int64_t kv_heads) {
    const variable_list results =
        recomputation::reuse([&] { return attend(qkv, cu_seqlens, heads, kv_heads); });
    variable_list saved = {qkv};
    saved.insert(saved.end(), results.begin(), results.end());
    context->save_for_backward(saved);
    context->saved_data["cu_seqlens"] = cu_seqlens;
    context->saved_data["kv_heads"] = kv_heads;
    return results.front();
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto cu_seqlens = context->saved_data["cu_seqlens"].toIntVector();
    const at::Tensor &qkv = saved[0], &out = saved[1];
    const at::Tensor out_grad = grads[0].contiguous();
    const int64_t heads = out.size(1), kv_heads = context->saved_data["kv_heads"].toInt();
    at::Tensor qkv_grad = at::empty_like(qkv);
    for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
      const int64_t begin = cu_seqlens[i], length = cu_seqlens[i + 1] - begin;
      const auto [query, key, value] = split_heads(qkv, begin, length, heads, kv_heads);
      const auto [query_grad, key_grad, value_grad] =
          at::_scaled_dot_product_flash_attention_for_cpu_backward(
              heads_of(out_grad, begin, length, 0, heads), query, key, value,
              heads_of(out, begin, length, 0, heads), saved[2 + i], /*dropout_p=*/0.0,
              /*is_causal=*/true);
      const auto target = split_heads(qkv_grad, begin, length, heads, kv_heads);
      target.query.copy_(query_grad);
      target.key.copy_(key_grad);
      target.value.copy_(value_grad);
    }
    qkv_grad.narrow(0, cu_seqlens.back(), qkv.size(0) - cu_seqlens.back()).zero_();
    return {qkv_grad, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor packed_attention(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                            int64_t heads, int64_t kv_heads) {
  ARCHON_EXPECT(qkv.size(1) == heads + 2 * kv_heads && !cu_seqlens.empty());
  return PackedAttention::apply(qkv.contiguous(), cu_seqlens, heads, kv_heads);
}

}  // namespace archon
