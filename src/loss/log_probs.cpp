#include "archon/loss/log_probs.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "archon/base/error.hpp"
#include "archon/parallel/accumulate.hpp"
#include "archon/parallel/device_copy.hpp"
#include "archon/parallel/matmul.hpp"
#include "archon/parallel/partition.hpp"
#include "softmax_rows.hpp"

namespace archon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What logits are multiplied with.
float scale_of(const VocabParallelHead& head) { return static_cast<float>(1.0 / head.temperature); }

/// One chunk of tokens: its logits in the hidden states' type.
class Chunk {
 public:
  Chunk(const at::Tensor& hidden, const VocabParallelHead& head, const at::Tensor& labels)
      : head_(head),
        labels_(labels),
        place_{even_range(head.vocab_size, head.tp.size(), head.tp.rank()).begin, scale_of(head)},
        logits_(matmul_nt(hidden, head.weight)) {}

  /// Collective over tp: statistics of every token's distribution over the whole vocabulary.
  at::Tensor distributions() const {
    const at::Tensor mine = softmax_rows::statistics(logits_, labels_, place_);
    if (head_.tp.size() == 1) return mine;
    at::Tensor all =
        at::empty({head_.tp.size(), mine.size(0), softmax_rows::kStatsWidth}, mine.options());
    head_.tp.all_gather(all, mine.unsqueeze(0));
    return softmax_rows::merged(all, place_.scale);
  }

  /// The logits, turned into their gradient: softmax_rows::differentiate.
  const at::Tensor& logits_gradient(const at::Tensor& grad, const at::Tensor& entropy_grad,
                                    const at::Tensor& whole) {
    softmax_rows::differentiate(logits_, labels_, place_, grad, entropy_grad, whole);
    return logits_;
  }

 private:
  const VocabParallelHead& head_;
  at::Tensor labels_;
  softmax_rows::Place place_;
  at::Tensor logits_;
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
    const auto options = hidden.options().dtype(at::kFloat);
    const at::Tensor whole = at::empty({rows.size(0), softmax_rows::kStatsWidth}, options);
    for_chunks(rows.size(0), head, [&](int64_t begin, int64_t count) {
      const Chunk chunk(hidden.index_select(0, rows.narrow(0, begin, count)), head,
                        labels.narrow(0, begin, count));
      whole.narrow(0, begin, count).copy_(chunk.distributions());
    });
    const at::Tensor log_probs = at::zeros({hidden.size(0)}, options);
    const at::Tensor entropy = at::zeros({with_entropy ? hidden.size(0) : 0}, options);
    log_probs.index_copy_(0, rows, softmax_rows::log_probs(whole, scale_of(head)));
    if (with_entropy) entropy.index_copy_(0, rows, softmax_rows::entropies(whole));
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
        return x.defined() ? x.narrow(0, begin, count) : x;
      };
      const at::Tensor picked = chunk_of(rows), x = hidden.index_select(0, picked);
      Chunk chunk(x, head, chunk_of(labels));
      const at::Tensor logits_grad =
          chunk.logits_gradient(chunk_of(grad), chunk_of(entropy_grad), chunk_of(saved[4]));
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
    const at::Tensor negative = weights.neg();
    at::Tensor loss = at::zeros({1}, hidden.options().dtype(at::kDouble));
    at::Tensor hidden_grad;
    WeightGradient weight_grad(count_chunks(tokens, head));
    if (with_gradient) hidden_grad = at::empty_like(hidden);
    for_chunks(tokens, head, [&](int64_t begin, int64_t count) {
      const at::Tensor x = hidden.narrow(0, begin, count), g = negative.narrow(0, begin, count);
      Chunk chunk(x, head, labels.narrow(0, begin, count));
      const at::Tensor whole = chunk.distributions();
      loss.add_((g.to(at::kDouble) * softmax_rows::log_probs(whole, scale_of(head))).sum());
      if (!with_gradient) return;
      const at::Tensor logits_grad = chunk.logits_gradient(g, at::Tensor(), whole);
      hidden_grad.narrow(0, begin, count).copy_(matmul_nt(logits_grad, weight.t()));
      weight_grad.add(matmul_nt(logits_grad.t(), x.t()));
    });
    if (with_gradient) context->save_for_backward({hidden_grad, weight_grad.result(weight)});
    return loss.cpu();
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
  const at::Device device = hidden.device();
  const auto outputs = LogProbsFunction::apply(
      hidden.contiguous(), head.weight, copy_to(device, rows),
      copy_to(device, labels.index_select(0, rows)), head.vocab_size, &head.tp, head.temperature,
      with_entropy);
  return {outputs[0], with_entropy ? outputs[1] : at::Tensor()};
}

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const VocabParallelHead& head,
                                const at::Tensor& labels, const at::Tensor& weights) {
  const at::Tensor active = weights.nonzero().view({-1});
  const bool all = active.size(0) == weights.size(0);
  const auto pick = [&](const at::Tensor& x) {
    return (all ? x : x.index_select(0, copy_to(x.device(), active))).contiguous();
  };
  const bool with_gradient =
      c10::GradMode::is_enabled() && (hidden.requires_grad() || head.weight.requires_grad());
  return CrossEntropyFunction::apply(pick(hidden), head.weight,
                                     copy_to(hidden.device(), pick(labels)),
                                     copy_to(hidden.device(), pick(weights)), head.vocab_size,
                                     &head.tp, head.temperature, with_gradient);
}

}  // namespace archon
