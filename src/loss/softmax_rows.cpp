#include "softmax_rows.hpp"

#include <ATen/Parallel.h>
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

const SoftmaxStats* stats_of(const at::Tensor& x) {
  return reinterpret_cast<const SoftmaxStats*>(x.const_data_ptr<float>());
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
    if (const int64_t column = row.column_of(label[t]); column >= 0) out[t].label = row.at(column);
  });
  return stats;
}

at::Tensor merged(const at::Tensor& of_ranks, float scale) {
  const int64_t ranks = of_ranks.size(0), tokens = of_ranks.size(1);
  if (ranks == 1) return of_ranks.select(0, 0);
  at::Tensor whole = at::empty({tokens, kStatsWidth}, of_ranks.options());
  if constexpr (kCudaBuild)
    if (of_ranks.is_cuda()) {
      cuda::merge_ranks(of_ranks, scale, whole);
      return whole;
    }
  const SoftmaxStats* stats = stats_of(of_ranks);
  auto* out = reinterpret_cast<SoftmaxStats*>(whole.data_ptr<float>());
  for (int64_t t = 0; t < tokens; ++t)
    out[t] = kernels::merge_ranks(stats + t, tokens, ranks, scale);
  return whole;
}

at::Tensor log_probs(const at::Tensor& whole, float scale) {
  at::Tensor result = at::empty({whole.size(0)}, whole.options());
  if constexpr (kCudaBuild)
    if (whole.is_cuda()) {
      cuda::log_probs(whole, scale, result);
      return result;
    }
  float* out = result.data_ptr<float>();
  for (int64_t t = 0; t < whole.size(0); ++t) out[t] = kernels::log_prob(stats_of(whole)[t], scale);
  return result;
}

at::Tensor entropies(const at::Tensor& whole) {
  at::Tensor result = at::empty({whole.size(0)}, whole.options());
  if constexpr (kCudaBuild)
    if (whole.is_cuda()) {
      cuda::entropies(whole, result);
      return result;
    }
  float* out = result.data_ptr<float>();
  for (int64_t t = 0; t < whole.size(0); ++t) out[t] = kernels::entropy(stats_of(whole)[t]);
  return result;
}

void differentiate(const at::Tensor& logits, const at::Tensor& labels, const Place& place,
                   const at::Tensor& grad, const at::Tensor& entropy_grad,
                   const at::Tensor& whole) {
  if constexpr (kCudaBuild)
    if (logits.is_cuda())
      return cuda::differentiate(logits, labels, place, grad, entropy_grad, whole);
  const SoftmaxStats* stats = stats_of(whole);
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const float *g = grad.const_data_ptr<float>(), *h = data_or_null(entropy_grad);
  for_rows(logits, place, [&]<class T>(int64_t t, const LogitRow<T>& row) {
    const RowGradient gradient(label[t] >= 0 ? g[t] * row.scale : 0.0F,
                               h != nullptr ? h[t] * row.scale : 0.0F, stats[t], row.scale);
    if (gradient.none) {
      std::fill_n(row.logits, row.width, T(0));
      return;
    }
    const int64_t column = row.column_of(label[t]);
    const float label_logit = column >= 0 ? row.at(column) : 0.0F;
    kernels::exponentiate(row.logits, row.width, row.scale, gradient.max, gradient.factor,
                          gradient.slope);
    if (column >= 0) row.logits[column] = static_cast<T>(gradient.at(label_logit, true));
  });
}

}  // namespace archon::softmax_rows
