#include "archon/loss/policy.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_add.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "archon/base/error.hpp"

namespace archon {
namespace {

/// The number of each token's sequence, int64 [T]; that of padding is one more than the last.
at::Tensor sequence_numbers(const std::vector<int64_t>& cu_seqlens, int64_t tokens) {
  const auto sequences = static_cast<int64_t>(cu_seqlens.size()) - 1;
  at::Tensor numbers = at::full({tokens}, sequences, at::kLong);
  for (int64_t i = 0; i < sequences; ++i)
    numbers.narrow(0, cu_seqlens[i], cu_seqlens[i + 1] - cu_seqlens[i]).fill_(i);
  return numbers;
}

/// Replaces each value by the mean over its sequence's targets; `x` is 0 elsewhere.
class SequenceMean {
 public:
  explicit SequenceMean(const PolicyBatch& batch)
      : sequences_(static_cast<int64_t>(batch.cu_seqlens.size())),
        numbers_(sequence_numbers(batch.cu_seqlens, batch.mask.size(0))),
        targets_(sum(batch.mask.to(at::kDouble)).clamp_min(1.0)) {}

  at::Tensor operator()(const at::Tensor& x) const {
    return (sum(x) / targets_).index_select(0, numbers_);
  }

 private:
  at::Tensor sum(const at::Tensor& x) const {
    return at::zeros({sequences_}, at::kDouble).index_add(0, numbers_, x);
  }

  int64_t sequences_;  // padding counted as one
  at::Tensor numbers_, targets_;
};

}  // namespace

at::Tensor policy_loss(const PolicyBatch& batch, const PolicyLossOptions& options) {
  ARCHON_EXPECT(batch.log_probs.size(0) == batch.mask.size(0) && !batch.cu_seqlens.empty());
  // What is no target may hold anything, so it is put aside before any arithmetic.
  const auto of_targets = [&](const at::Tensor& x) {
    return at::where(batch.mask, x.to(at::kDouble), 0.0);
  };
  const at::Tensor proximal = of_targets(batch.proximal_log_probs);
  at::Tensor log_ratio = of_targets(batch.log_probs) - proximal;
  at::Tensor advantages = of_targets(batch.advantages);
  if (options.sequence_ratio) {
    const SequenceMean mean(batch);
    log_ratio = mean(log_ratio);
    advantages = mean(advantages);
  }
  const at::Tensor ratio = log_ratio.exp();
  const at::Tensor clipped = ratio.clamp(1.0 - options.eps_clip, 1.0 + options.eps_clip_higher);
  at::Tensor loss = at::maximum(-advantages * ratio, -advantages * clipped);
  if (options.dual_clip > 0) loss = at::minimum(loss, options.dual_clip * advantages.abs());

  at::Tensor weight = (proximal - of_targets(batch.behaviour_log_probs)).exp();
  if (options.behaviour_weight_cap > 0)
    weight = at::where(weight <= options.behaviour_weight_cap, weight, 0.0);
  return at::where(batch.mask, loss * weight, 0.0);
}

}  // namespace archon
