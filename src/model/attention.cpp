#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/model/ops.hpp"
#include "archon/parallel/dispatch.hpp"
#include "archon/parallel/recompute.hpp"
#include "archon/parallel/tasks.hpp"
#include "attention_kernels.hpp"
#include "device_attention.hpp"
#include "kernels.hpp"

namespace archon {
namespace {

using kernels::AttentionHead;
using kernels::kAttentionBlock;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What one thread does at a time: a query block of a head (forward), or a whole head (backward).
struct Task {
  int64_t begin, length;  // the sequence
  int64_t padded_begin;   // where it begins if each sequence is padded to whole blocks
  int64_t head, block;
};

/// The tasks of all sequences and heads, the longest first: what is left over at the end is short.
std::vector<Task> make_tasks(const std::vector<int64_t>& cu_seqlens, int64_t heads,
                             bool each_block) {
  std::vector<Task> tasks;
  int64_t padded_begin = 0;
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t length = cu_seqlens[i + 1] - cu_seqlens[i];
    const int64_t blocks = kernels::attention_blocks(length);
    for (int64_t block = each_block ? 0 : blocks - 1; block < blocks; ++block)
      for (int64_t head = 0; head < heads; ++head)
        tasks.push_back({cu_seqlens[i], length, padded_begin, head, block});
    padded_begin += blocks * kAttentionBlock;
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return a.block > b.block; });
  return tasks;
}

template <class Body>
void for_tasks(const std::vector<Task>& tasks, int64_t head_dim, const Body& body) {
  run_tasks(static_cast<int64_t>(tasks.size()), kernels::attention_scratch(head_dim),
            [&](int64_t i, float* scratch) { body(tasks[i], scratch); });
}

template <class T>
AttentionHead<T> head_of(const at::Tensor& qkv, const Task& task, int64_t heads, int64_t kv_heads) {
  const int64_t d = qkv.size(2), stride = qkv.stride(0);
  const T* rows = qkv.const_data_ptr<T>() + task.begin * stride;
  const int64_t key = heads + task.head / (heads / kv_heads);
  return {
      rows + task.head * d, rows + key * d, rows + (key + kv_heads) * d, stride, task.length, d};
}

/// Sums over the query heads that share a key/value head, in order. key_value [2, heads, padded
/// tokens, padded head_dim]; writes the key and value heads of qkv_grad.
template <class T>
void sum_key_value_grads(at::Tensor& qkv_grad, const at::Tensor& key_value, int64_t kv_heads,
                         const std::vector<int64_t>& cu_seqlens) {
  const int64_t heads = key_value.size(1), group = heads / kv_heads, d = qkv_grad.size(2);
  int64_t padded_begin = 0;
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t begin = cu_seqlens[i], length = cu_seqlens[i + 1] - begin;
    at::parallel_for(0, length, kAttentionBlock, [&](int64_t first, int64_t last) {
      for (int64_t t = first; t < last; ++t)
        for (int64_t head = 0; head < 2 * kv_heads; ++head)
          kernels::sum_parts(
              qkv_grad.data_ptr<T>() + (begin + t) * qkv_grad.stride(0) + (heads + head) * d,
              key_value.const_data_ptr<float>() + head * group * key_value.stride(1) +
                  (padded_begin + t) * key_value.stride(2),
              key_value.stride(1), group, d);
    });
    padded_begin += kernels::attention_blocks(length) * kAttentionBlock;
  }
}

int64_t padded_tokens(const std::vector<int64_t>& cu_seqlens) {
  int64_t blocks = 0;
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i)
    blocks += kernels::attention_blocks(cu_seqlens[i + 1] - cu_seqlens[i]);
  return blocks * kAttentionBlock;
}

/// The output [tokens, heads, head_dim] and its log-sum-exp [heads, tokens].
variable_list attend(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens, int64_t heads,
                     int64_t kv_heads) {
  const int64_t tokens = qkv.size(0), d = qkv.size(2), stride = heads * d;
  const at::Tensor out = at::empty({tokens, heads, d}, qkv.options());
  const at::Tensor log_sum_exp = at::empty({heads, tokens}, at::kFloat);
  dispatch(qkv, [&]<class T>(T*) {
    for_tasks(make_tasks(cu_seqlens, heads, true), d, [&](const Task& task, float* scratch) {
      kernels::attention_kernels<T>().forward(
          head_of<T>(qkv, task, heads, kv_heads), task.block,
          out.data_ptr<T>() + task.begin * stride + task.head * d, stride,
          log_sum_exp.data_ptr<float>() + task.head * tokens + task.begin, scratch);
    });
  });
  out.narrow(0, cu_seqlens.back(), out.size(0) - cu_seqlens.back()).zero_();
  return {out, log_sum_exp};
}

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv,
                            const std::vector<int64_t>& cu_seqlens, int64_t heads,
                            int64_t kv_heads) {
    const variable_list results =
        recomputation::reuse([&] { return attend(qkv, cu_seqlens, heads, kv_heads); });
    context->save_for_backward({qkv, results[0], results[1]});
    context->saved_data["cu_seqlens"] = cu_seqlens;
    context->saved_data["kv_heads"] = kv_heads;
    return results[0];
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const auto cu_seqlens = context->saved_data["cu_seqlens"].toIntVector();
    const at::Tensor &qkv = saved[0], &out = saved[1], &log_sum_exp = saved[2];
    const at::Tensor out_grad = grads[0].contiguous();
    const int64_t tokens = out.size(0), heads = out.size(1), d = out.size(2), stride = heads * d;
    const int64_t kv_heads = context->saved_data["kv_heads"].toInt();
    const int64_t padded = kernels::attention_padded_dim(d);
    at::Tensor qkv_grad = at::empty_like(qkv);
    const at::Tensor key_value =
        at::empty({2, heads, padded_tokens(cu_seqlens), padded}, at::kFloat);
    dispatch(qkv, [&]<class T>(T*) {
      for_tasks(make_tasks(cu_seqlens, heads, false), d, [&](const Task& task, float* scratch) {
        float* key_grad = key_value.data_ptr<float>() + task.head * key_value.stride(1) +
                          task.padded_begin * padded;
        float* value_grad = key_grad + key_value.stride(0);
        const int64_t first = task.begin * stride + task.head * d;
        kernels::attention_kernels<T>().backward(
            head_of<T>(qkv, task, heads, kv_heads),
            {out.const_data_ptr<T>() + first, out_grad.const_data_ptr<T>() + first, stride,
             log_sum_exp.const_data_ptr<float>() + task.head * tokens + task.begin,
             qkv_grad.data_ptr<T>() + task.begin * qkv_grad.stride(0) + task.head * d, key_grad,
             value_grad},
            scratch);
      });
      sum_key_value_grads<T>(qkv_grad, key_value, kv_heads, cu_seqlens);
    });
    qkv_grad.narrow(0, cu_seqlens.back(), qkv.size(0) - cu_seqlens.back()).zero_();
    return {qkv_grad, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

int64_t attention_backward_bytes(int64_t length, int64_t head_dim) {
  const int64_t rows = kernels::attention_blocks(length) * kAttentionBlock;
  return 2 * rows * kernels::attention_padded_dim(head_dim) * static_cast<int64_t>(sizeof(float));
}

at::Tensor packed_attention(const at::Tensor& qkv, const std::vector<int64_t>& cu_seqlens,
                            int64_t heads, int64_t kv_heads) {
  ARCHON_EXPECT(qkv.size(1) == heads + 2 * kv_heads && !cu_seqlens.empty());
  if (!qkv.is_cpu()) return device_attention(qkv.contiguous(), cu_seqlens, heads, kv_heads);
  return PackedAttention::apply(qkv.contiguous(), cu_seqlens, heads, kv_heads);
}

}  // namespace archon
