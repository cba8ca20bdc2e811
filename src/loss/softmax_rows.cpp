#include "softmax_rows.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>

#include "archon/parallel/dispatch.hpp"
#include "softmax_cuda.hpp"
#include "softmax_kernels.hpp"

namespace archon::softmax_rows {
namespace {

using kernels::LogitRow;
using kernels::RowGradient;
using kernels::SoftmaxStats;

static_assert(kStatsWidth * sizeof(float) == sizeof(SoftmaxStats));

/// Calls body(t, logits of token t), from several threads.
template <class Body>
void for_rows(const at::Tensor& logits, const Place& place, const Body& body) {
  const int64_t width = logits.size(1);
  dispatch(logits, [&]<class T>(T*) {
    T* rows = logits.data_ptr<T>();
    at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        body(t, LogitRow<T>{rows + t * width, width, place.first_row, place.scale});
    });
  });
}

const float* data_or_null(const at::Tensor& x) {
  return x.defined() ? x.const_data_ptr<float>() : nullptr;
}

}  // namespace

at::Tensor statistics(const at::Tensor& logits, const at::Tensor& labels, const Place& place) {
  at::Tensor stats = at::empty({logits.size(0), kStatsWidth}, logits.options().dtype(at::kFloat));
  if constexpr (kCudaBuild)
    if (logits.is_cuda()) {
      cuda::statistics(logits, labels, place, stats);
      return stats;
    }
  auto* out = reinterpret_cast<SoftmaxStats*>(stats.data_ptr<float>());
  const int64_t* label = labels.const_data_ptr<int64_t>();
  for_rows(logits, place, [&]<class T>(int64_t t, const LogitRow<T>& row) {
    out[t] = {-std::numeric_limits<float>::infinity(), 0, 0, 0};
    if (row.width > 0) out[t] = kernels::softmax_stats(row.logits, row.width, row.scale);
    if (const int64_t column = row.column_of(label[t]); column >= 0)
      out[t].label = row.scaled(column);
  });
  return stats;
}

at::Tensor merged(const at::Tensor& of_ranks) {
  if (of_ranks.size(0) == 1) return of_ranks.select(0, 0);
  const at::Tensor maxima = of_ranks.select(2, 0), sums = of_ranks.select(2, 1);
  at::Tensor whole = at::empty({of_ranks.size(1), kStatsWidth}, of_ranks.options());
  const at::Tensor max = at::amax(maxima, 0);
  // A rank without rows has a maximum of -inf, and a sum of 0 that shall stay 0.
  const at::Tensor shift = (maxima - max).masked_fill(sums.eq(0), 0.0), factor = shift.exp();
  whole.select(1, 0).copy_(max);
  whole.select(1, 1).copy_((sums * factor).sum(0));
  whole.select(1, 2).copy_(((of_ranks.select(2, 2) + sums * shift) * factor).sum(0));
  whole.select(1, 3).copy_(of_ranks.select(2, 3).sum(0));
  return whole;
}

// Fused multiply-adds may leave a sum a little below 1, but no probability is above 1; NaN stays.
at::Tensor log_probs(const at::Tensor& whole) {
  return (whole.select(1, 3) - whole.select(1, 0) - whole.select(1, 1).log()).clamp_max(0.0);
}

at::Tensor entropies(const at::Tensor& whole) {
  return whole.select(1, 1).log() - whole.select(1, 2) / whole.select(1, 1);
}

void differentiate(const at::Tensor& logits, const at::Tensor& labels, const Place& place,
                   const at::Tensor& grad, const at::Tensor& entropy_grad,
                   const at::Tensor& whole) {
  if constexpr (kCudaBuild)
    if (logits.is_cuda())
      return cuda::differentiate(logits, labels, place, grad, entropy_grad, whole);
  const auto* stats = reinterpret_cast<const SoftmaxStats*>(whole.const_data_ptr<float>());
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const float *g = grad.const_data_ptr<float>(), *h = data_or_null(entropy_grad);
  for_rows(logits, place, [&]<class T>(int64_t t, const LogitRow<T>& row) {
    const RowGradient gradient(label[t] >= 0 ? g[t] * row.scale : 0.0F,
                               h != nullptr ? h[t] * row.scale : 0.0F, stats[t]);
    if (gradient.none) {
      std::fill_n(row.logits, row.width, T(0));
      return;
    }
    const int64_t column = row.column_of(label[t]);
    const float label_logit = column >= 0 ? row.scaled(column) : 0.0F;
    kernels::exponentiate(row.logits, row.width, row.scale, gradient.max, gradient.factor,
                          gradient.slope);
    if (column >= 0) row.logits[column] = static_cast<T>(gradient.at(label_logit, true));
  });
}

}  // namespace archon::softmax_rows
