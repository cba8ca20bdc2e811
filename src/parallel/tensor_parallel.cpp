#include "archon/parallel/tensor_parallel.hpp"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "archon/parallel/collectives.hpp"
#include "archon/parallel/linear.hpp"

namespace archon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
void lookup(T* out, const T* table, const int64_t* tokens, int64_t count, int64_t first_row,
            int64_t rows, int64_t width) {
  at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = tokens[t] - first_row;
      if (row >= 0 && row < rows)
        std::copy_n(table + row * width, width, out + t * width);
      else
        std::fill_n(out + t * width, width, T(0));
    }
  });
}

// Threads share out the columns, so every row is summed in token order: the same bits each time.
template <class T>
void add_rows(T* table, const T* grad, const int64_t* tokens, int64_t count, int64_t first_row,
              int64_t rows, int64_t width) {
  at::parallel_for(0, width, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < count; ++t) {
      const int64_t row = tokens[t] - first_row;
      if (row < 0 || row >= rows) continue;
      for (int64_t i = begin; i < end; ++i) table[row * width + i] += grad[t * width + i];
    }
  });
}

/// Rows of the table that other ranks hold come out as zeros.
struct PartialEmbedding : torch::autograd::Function<PartialEmbedding> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& table,
                            const at::Tensor& tokens, int64_t first_row) {
    context->save_for_backward({tokens});
    context->saved_data["first_row"] = first_row;
    context->saved_data["rows"] = table.size(0);
    at::Tensor out = at::empty({tokens.size(0), table.size(1)}, table.options());
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, table.scalar_type(), "partial_embedding", [&] {
          lookup(out.data_ptr<scalar_t>(), table.const_data_ptr<scalar_t>(),
                 tokens.const_data_ptr<int64_t>(), tokens.size(0), first_row, table.size(0),
                 table.size(1));
        });
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor tokens = context->get_saved_variables()[0];
    const at::Tensor grad = grads[0].contiguous();
    const int64_t rows = context->saved_data["rows"].toInt();
    at::Tensor table = at::zeros({rows, grad.size(1)}, grad.options().dtype(at::kFloat));
    const at::Tensor grad32 = grad.to(at::kFloat);
    add_rows(table.data_ptr<float>(), grad32.const_data_ptr<float>(),
             tokens.const_data_ptr<int64_t>(), tokens.size(0),
             context->saved_data["first_row"].toInt(), rows, grad.size(1));
    return {table.to(grad.scalar_type()), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor column_parallel_linear(const at::Tensor& x, const at::Tensor& weight,
                                  const at::Tensor& bias, const Communicator& tp,
                                  WhenRecomputed use) {
  return archon::linear(differentiable::all_gather(x, tp), weight, bias, use);
}

at::Tensor row_parallel_linear(const at::Tensor& x, const at::Tensor& weight,
                               const Communicator& tp, WhenRecomputed use) {
  if (tp.size() == 1) return archon::linear(x, weight, {}, use);
  // The sum over tp is what is kept; then its parts are not needed again.
  const bool kept = use == WhenRecomputed::reuse && recomputation::keeps_results();
  const auto partial =
      use == WhenRecomputed::skip || kept ? WhenRecomputed::skip : WhenRecomputed::compute;
  return differentiable::reduce_scatter(archon::linear(x, weight, {}, partial), tp, {}, use);
}

at::Tensor vocab_parallel_embedding(const at::Tensor& tokens, const at::Tensor& table,
                                    int64_t first_row, const Communicator& tp) {
  return differentiable::reduce_scatter(PartialEmbedding::apply(table, tokens, first_row), tp);
}

}  // namespace archon
