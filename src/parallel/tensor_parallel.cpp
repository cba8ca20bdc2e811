#include "archon/parallel/tensor_parallel.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "archon/parallel/collectives.hpp"
#include "archon/parallel/dispatch.hpp"
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

/// Places of the tokens whose rows this rank holds, those of one row side by side, in order.
std::vector<int64_t> group_by_row(const int64_t* tokens, int64_t count, int64_t first_row,
                                  int64_t rows) {
  std::vector<int64_t> places;
  for (int64_t t = 0; t < count; ++t)
    if (tokens[t] >= first_row && tokens[t] < first_row + rows) places.push_back(t);
  std::stable_sort(places.begin(), places.end(),
                   [&](int64_t a, int64_t b) { return tokens[a] < tokens[b]; });
  return places;
}

// Each row is summed by one thread, in token order and in float32: the same bits each time.
template <class T>
void sum_rows(T* table, const T* grad, const int64_t* tokens, const std::vector<int64_t>& places,
              int64_t first_row, int64_t width) {
  const auto same_row = [&](int64_t i, int64_t j) {
    return tokens[places[i]] == tokens[places[j]];
  };
  const int64_t count = static_cast<int64_t>(places.size());
  at::parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(width);
    // A row belongs to the range in which it begins.
    while (begin > 0 && begin < end && same_row(begin - 1, begin)) ++begin;
    for (int64_t i = begin; i < end;) {
      const int64_t first = i;
      std::fill(sum.begin(), sum.end(), 0.0F);
      for (; i < count && same_row(first, i); ++i)
        for (int64_t j = 0; j < width; ++j)
          sum[j] += static_cast<float>(grad[places[i] * width + j]);
      T* row = table + (tokens[places[first]] - first_row) * width;
      for (int64_t j = 0; j < width; ++j) row[j] = static_cast<T>(sum[j]);
    }
  });
}

/// For devices: rows of the table, and which tokens have one here.
struct LocalRows {
  LocalRows(const at::Tensor& tokens, int64_t first_row, int64_t count)
      : others(tokens.lt(first_row).logical_or(tokens.ge(first_row + count)).unsqueeze(1)),
        rows((tokens - first_row).clamp(0, std::max<int64_t>(count - 1, 0))) {}
  at::Tensor others, rows;
};

at::Tensor device_lookup(const at::Tensor& table, const at::Tensor& tokens, int64_t first_row) {
  if (table.size(0) == 0) return at::zeros({tokens.size(0), table.size(1)}, table.options());
  const LocalRows local(tokens, first_row, table.size(0));
  return table.index_select(0, local.rows).masked_fill_(local.others, 0);
}

at::Tensor device_sum_rows(const at::Tensor& grad, const at::Tensor& tokens, int64_t first_row,
                           int64_t rows) {
  if (rows == 0) return at::zeros({0, grad.size(1)}, grad.options());
  const LocalRows local(tokens, first_row, rows);
  return at::embedding_dense_backward(grad.masked_fill(local.others, 0), local.rows, rows,
                                      /*padding_idx=*/-1, /*scale_grad_by_freq=*/false);
}

/// Rows of the table that other ranks hold come out as zeros.
struct PartialEmbedding : torch::autograd::Function<PartialEmbedding> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& table,
                            const at::Tensor& tokens, int64_t first_row) {
    context->save_for_backward({tokens});
    context->saved_data["first_row"] = first_row;
    context->saved_data["rows"] = table.size(0);
    if (!table.is_cpu()) return device_lookup(table, tokens, first_row);
    at::Tensor out = at::empty({tokens.size(0), table.size(1)}, table.options());
    dispatch(table, [&]<class T>(T*) {
      lookup(out.data_ptr<T>(), table.const_data_ptr<T>(), tokens.const_data_ptr<int64_t>(),
             tokens.size(0), first_row, table.size(0), table.size(1));
    });
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const at::Tensor tokens = context->get_saved_variables()[0];
    const at::Tensor grad = grads[0].contiguous();
    const int64_t rows = context->saved_data["rows"].toInt();
    const int64_t first_row = context->saved_data["first_row"].toInt();
    if (!grad.is_cpu())
      return {device_sum_rows(grad, tokens, first_row, rows), at::Tensor(), at::Tensor()};
    const int64_t* token = tokens.const_data_ptr<int64_t>();
    at::Tensor table_grad = at::zeros({rows, grad.size(1)}, grad.options());
    dispatch(grad, [&]<class T>(T*) {
      sum_rows(table_grad.data_ptr<T>(), grad.const_data_ptr<T>(), token,
               group_by_row(token, tokens.size(0), first_row, rows), first_row, grad.size(1));
    });
    return {table_grad, at::Tensor(), at::Tensor()};
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
