#include "archon/loss/log_probs.hpp"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "archon/base/error.hpp"
#include "archon/parallel/accumulate.hpp"
#include "archon/parallel/dispatch.hpp"
#include "archon/parallel/matmul.hpp"
#include "archon/parallel/partition.hpp"
#include "softmax_kernels.hpp"

namespace archon {
namespace {

using kernels::SoftmaxStats;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kStatsWidth = sizeof(SoftmaxStats) / sizeof(float);
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

/// A token's distribution over the whole vocabulary.
struct Distribution {
  float max, sum, weighted, label;
  float log_prob() const { return kernels::log_prob(label, max, sum); }
  float mean() const { return weighted / sum; }  // of logit − max
  float entropy() const { return std::log(sum) - mean(); }
};

constexpr int64_t kDistributionWidth = sizeof(Distribution) / sizeof(float);

/// A float32 tensor [tokens, 4] that holds them, as autograd saves tensors alone.
Distribution* distributions_in(const at::Tensor& x) {
  return reinterpret_cast<Distribution*>(x.data_ptr<float>());
}

Distribution merge(const SoftmaxStats* stats, int64_t stride, int ranks) {
  float max = kNegativeInfinity;
  for (int r = 0; r < ranks; ++r) max = std::max(max, stats[r * stride].max);
  Distribution all{max, 0, 0, 0};
  for (int r = 0; r < ranks; ++r) {
    const SoftmaxStats& s = stats[r * stride];
    if (s.sum == 0) continue;
    const float shift = s.max - max, factor = std::exp(shift);
    all.sum += s.sum * factor;
    all.weighted += (s.weighted + s.sum * shift) * factor;
    all.label += s.label;
  }
  return all;
}

/// One chunk of tokens: its logits in the hidden states' type, and their statistics.
class Chunk {
 public:
  Chunk(const at::Tensor& hidden, const VocabParallelHead& head, const int64_t* labels)
      : head_(head),
        labels_(labels),
        tokens_(hidden.size(0)),
        rows_(head.weight.size(0)),
        first_row_(even_range(head.vocab_size, head.tp.size(), head.tp.rank()).begin),
        scale_(static_cast<float>(1.0 / head.temperature)),
        logits_(matmul_nt(hidden, head.weight)),
        stats_(at::empty({tokens_, kStatsWidth}, at::kFloat)) {
    auto* stats = reinterpret_cast<SoftmaxStats*>(stats_.data_ptr<float>());
    for_rows([&]<class T>(int64_t t, T* logits) {
      if (rows_ == 0) {
        stats[t] = {kNegativeInfinity, 0, 0, 0};
        return;
      }
      stats[t] = kernels::softmax_stats(logits, rows_, scale_);
      if (holds_label(t))
        stats[t].label = static_cast<float>(logits[labels_[t] - first_row_]) * scale_;
    });
  }

  /// Collective over tp: every token's distribution over the whole vocabulary.
  std::vector<Distribution> gather() const {
    at::Tensor all = stats_;
    if (head_.tp.size() > 1) {
      all = at::empty({head_.tp.size() * tokens_, kStatsWidth}, at::kFloat);
      head_.tp.all_gather(all, stats_);
    }
    const auto* stats = reinterpret_cast<const SoftmaxStats*>(all.const_data_ptr<float>());
    std::vector<Distribution> result(tokens_);
    for (int64_t t = 0; t < tokens_; ++t) result[t] = merge(stats + t, tokens_, head_.tp.size());
    return result;
  }

  /// Turns the logits into d(Σ g·log p + h·H)/d logits, in place, with H the entropy:
  /// (g·onehot − p·(g + h·(z − E z))) / temperature for logits z, given each token's g, h (may be
  /// null) and distribution over the whole vocabulary.
  const at::Tensor& logits_gradient(const float* grad, const float* entropy_grad,
                                    const Distribution* whole) {
    for_rows([&]<class T>(int64_t t, T* row) {
      const float g = labels_[t] >= 0 ? grad[t] * scale_ : 0.0F;
      const float h = entropy_grad != nullptr ? entropy_grad[t] * scale_ : 0.0F;
      if (g == 0 && h == 0) {
        std::fill_n(row, rows_, T(0));
        return;
      }
      const Distribution& d = whole[t];
      const float slope = -h / d.sum, factor = -g / d.sum - slope * d.mean();
      const bool mine = holds_label(t);
      const float label = mine ? static_cast<float>(row[labels_[t] - first_row_]) : 0.0F;
      kernels::exponentiate(row, rows_, scale_, d.max, factor, slope);
      if (mine) {
        const float shifted = label * scale_ - d.max;
        row[labels_[t] - first_row_] =
            static_cast<T>(g + (factor + slope * shifted) * std::exp(shifted));
      }
    });
    return logits_;
  }

 private:
  bool holds_label(int64_t t) const {
    return labels_[t] >= first_row_ && labels_[t] < first_row_ + rows_;
  }

  /// Calls body(t, logits of token t), from several threads.
  template <class Body>
  void for_rows(const Body& body) {
    dispatch(logits_, [&]<class T>(T*) {
      T* rows = logits_.data_ptr<T>();
      at::parallel_for(0, tokens_, 1, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) body(t, rows + t * rows_);
      });
    });
  }

  const VocabParallelHead& head_;
  const int64_t* labels_;
  int64_t tokens_, rows_, first_row_;
  float scale_;
  at::Tensor logits_, stats_;
};

/// The chunks' weight gradients, summed in float32; the gradient of an only chunk stays as it is.
class WeightGradient {
 public:
  explicit WeightGradient(int64_t chunks) : several_(chunks > 1) {}
  void add(const at::Tensor& part) {
    if (sum_.defined())
      accumulate(sum_, part);
    else
      sum_ = several_ ? part.to(at::kFloat) : part;
  }
  at::Tensor result(const at::Tensor& weight) const {
    return sum_.defined() ? sum_.to(weight.scalar_type()) : at::zeros_like(weight);
  }

 private:
  bool several_;
  at::Tensor sum_;
};

int64_t count_chunks(int64_t tokens, const VocabParallelHead& head) {
  const int64_t step = logit_chunk_tokens(head.weight.size(1));
  return (tokens + step - 1) / step;
}

/// Calls body(begin, count) for chunks of tokens, cut alike on all tp ranks.
template <class Body>
void for_chunks(int64_t tokens, const VocabParallelHead& head, const Body& body) {
  const int64_t step = logit_chunk_tokens(head.weight.size(1));
  for (int64_t begin = 0; begin < tokens; begin += step)
    body(begin, std::min(step, tokens - begin));
}

/// `rows` are the tokens that have a label, `labels` theirs.
struct LogProbsFunction : torch::autograd::Function<LogProbsFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& hidden,
                               const at::Tensor& weight, const at::Tensor& rows,
                               const at::Tensor& labels, int64_t vocab_size, const Communicator* tp,
                               double temperature, bool with_entropy) {
    const VocabParallelHead head{weight, vocab_size, *tp, temperature};
    at::Tensor log_probs = at::zeros({hidden.size(0)}, at::kFloat);
    at::Tensor entropy = at::zeros({with_entropy ? hidden.size(0) : 0}, at::kFloat);
    const at::Tensor whole = at::empty({rows.size(0), kDistributionWidth}, at::kFloat);
    const int64_t* row = rows.const_data_ptr<int64_t>();
    for_chunks(rows.size(0), head, [&](int64_t begin, int64_t count) {
      const Chunk chunk(hidden.index_select(0, rows.narrow(0, begin, count)), head,
                        labels.const_data_ptr<int64_t>() + begin);
      const auto distributions = chunk.gather();
      std::copy(distributions.begin(), distributions.end(), distributions_in(whole) + begin);
      for (int64_t t = 0; t < count; ++t) {
        log_probs.data_ptr<float>()[row[begin + t]] = distributions[t].log_prob();
        if (with_entropy) entropy.data_ptr<float>()[row[begin + t]] = distributions[t].entropy();
      }
    });
    context->save_for_backward({hidden, weight, rows, labels, whole});
    context->saved_data["vocab_size"] = vocab_size;
    context->saved_data["tp"] = reinterpret_cast<int64_t>(tp);
    context->saved_data["temperature"] = temperature;
    context->saved_data["with_entropy"] = with_entropy;
    return {log_probs, entropy};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &hidden = saved[0], &weight = saved[1], &rows = saved[2], &labels = saved[3];
    const auto* tp = reinterpret_cast<const Communicator*>(context->saved_data["tp"].toInt());
    const VocabParallelHead head{weight, context->saved_data["vocab_size"].toInt(), *tp,
                                 context->saved_data["temperature"].toDouble()};
    const at::Tensor grad = grads[0].index_select(0, rows);
    at::Tensor entropy_grad;
    if (context->saved_data["with_entropy"].toBool()) entropy_grad = grads[1].index_select(0, rows);
    at::Tensor hidden_grad = at::zeros_like(hidden);
    WeightGradient weight_grad(count_chunks(rows.size(0), head));
    for_chunks(rows.size(0), head, [&](int64_t begin, int64_t count) {
      const auto chunk_of = [&](const at::Tensor& x) {
        return x.defined() ? x.const_data_ptr<float>() + begin : nullptr;
      };
      const at::Tensor picked = rows.narrow(0, begin, count), x = hidden.index_select(0, picked);
      Chunk chunk(x, head, labels.const_data_ptr<int64_t>() + begin);
      const at::Tensor logits_grad = chunk.logits_gradient(chunk_of(grad), chunk_of(entropy_grad),
                                                           distributions_in(saved[4]) + begin);
      hidden_grad.index_copy_(0, picked, matmul_nt(logits_grad, weight.t()));
      weight_grad.add(matmul_nt(logits_grad.t(), x.t()));
    });
    return {hidden_grad,  weight_grad.result(weight),
            at::Tensor(), at::Tensor(),
            at::Tensor(), at::Tensor(),
            at::Tensor(), at::Tensor()};
  }
};

/// Only rows of non-zero weight reach it.
struct CrossEntropyFunction : torch::autograd::Function<CrossEntropyFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& labels,
                            const at::Tensor& weights, int64_t vocab_size, const Communicator* tp,
                            double temperature, bool with_gradient) {
    const VocabParallelHead head{weight, vocab_size, *tp, temperature};
    const int64_t tokens = hidden.size(0);
    const int64_t* label = labels.const_data_ptr<int64_t>();
    const at::Tensor negative = weights.neg();
    double loss = 0;
    at::Tensor hidden_grad;
    WeightGradient weight_grad(count_chunks(tokens, head));
    if (with_gradient) hidden_grad = at::empty_like(hidden);
    for_chunks(tokens, head, [&](int64_t begin, int64_t count) {
      const at::Tensor x = hidden.narrow(0, begin, count);
      Chunk chunk(x, head, label + begin);
      const auto whole = chunk.gather();
      const float* g = negative.const_data_ptr<float>() + begin;
      for (int64_t t = 0; t < count; ++t) loss += double{g[t]} * whole[t].log_prob();
      if (!with_gradient) return;
      const at::Tensor logits_grad = chunk.logits_gradient(g, nullptr, whole.data());
      hidden_grad.narrow(0, begin, count).copy_(matmul_nt(logits_grad, weight.t()));
      weight_grad.add(matmul_nt(logits_grad.t(), x.t()));
    });
    if (with_gradient) context->save_for_backward({hidden_grad, weight_grad.result(weight)});
    return at::zeros({1}, at::kDouble).fill_(loss);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const double scale = grads[0].item<double>();
    const auto scaled = [scale](const at::Tensor& grad) {
      return scale == 1.0 ? grad : grad.mul(scale);
    };
    return {scaled(saved[0]), scaled(saved[1]), at::Tensor(), at::Tensor(),
            at::Tensor(),     at::Tensor(),     at::Tensor(), at::Tensor()};
  }
};

}  // namespace

int64_t logit_chunk_tokens(int64_t hidden_size) {
  return std::clamp<int64_t>(hidden_size, 16, 1024);
}

at::Tensor local_logits(const at::Tensor& hidden, const VocabParallelHead& head) {
  at::Tensor logits = matmul_nt(hidden, head.weight).to(at::kFloat);
  if (head.temperature != 1.0) logits.div_(head.temperature);
  return logits;
}

LogProbs vocab_parallel_log_probs(const at::Tensor& hidden, const VocabParallelHead& head,
                                  const at::Tensor& labels, bool with_entropy) {
  const at::Tensor rows = labels.ge(0).nonzero().view({-1});
  const auto outputs =
      LogProbsFunction::apply(hidden.contiguous(), head.weight, rows, labels.index_select(0, rows),
                              head.vocab_size, &head.tp, head.temperature, with_entropy);
  return {outputs[0], with_entropy ? outputs[1] : at::Tensor()};
}

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const VocabParallelHead& head,
                                const at::Tensor& labels, const at::Tensor& weights) {
  const at::Tensor active = weights.nonzero().view({-1});
  const bool all = active.size(0) == weights.size(0);
  const auto pick = [&](const at::Tensor& x) {
    return (all ? x : x.index_select(0, active)).contiguous();
  };
  const bool with_gradient =
      c10::GradMode::is_enabled() && (hidden.requires_grad() || head.weight.requires_grad());
  return CrossEntropyFunction::apply(pick(hidden), head.weight, pick(labels), pick(weights),
                                     head.vocab_size, &head.tp, head.temperature, with_gradient);
}

}  // namespace archon
