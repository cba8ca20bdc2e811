#include "archon/loss/policy.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "archon/base/error.hpp"
#include "sequence_sums.hpp"

namespace archon {
namespace {

/// Replaces each value by the mean over its sequence's targets; `x` is 0 elsewhere.
class SequenceMean {
 public:
  explicit SequenceMean(const PolicyBatch& batch)
      : sums_(batch.cu_seqlens, batch.mask.size(0)),
        targets_(sums_.sum(batch.mask.to(at::kDouble)).clamp_min(1.0)) {}

  at::Tensor operator()(const at::Tensor& x) const { return sums_.spread(sums_.sum(x) / targets_); }

 private:
  SequenceSums sums_;
  at::Tensor targets_;
};

/// Sets `loss` and what clipping did to it.
void clip(const at::Tensor& ratio, const at::Tensor& advantages, const PolicyLossOptions& options,
          PolicyLoss& result) {
  const double low = 1.0 - options.eps_clip, high = 1.0 + options.eps_clip_higher;
  result.loss = at::maximum(-advantages * ratio, -advantages * ratio.clamp(low, high));
  result.clipped_low = ratio.lt(low).logical_and(advantages.lt(0));
  result.clipped_high = ratio.gt(high).logical_and(advantages.gt(0));
  if (options.dual_clip == 0) return;
  const at::Tensor bound = options.dual_clip * advantages.abs();
  result.dual_clipped = result.loss.gt(bound);
  result.loss = at::minimum(result.loss, bound);
}

at::Tensor soft_gate(const at::Tensor& ratio, const at::Tensor& advantages,
                     const PolicyLossOptions& options) {
  const at::Tensor tau = at::full_like(advantages, options.sapo_tau_negative)
                             .masked_fill(advantages.gt(0), options.sapo_tau_positive);
  return 4.0 / tau * at::sigmoid(tau * (ratio - 1.0));
}

}  // namespace

void validate(const PolicyLossOptions& options) {
  ARCHON_VALIDATE(options.dual_clip == 0 || options.dual_clip > 1,
                  "--dual-clip {} is not above 1: it would bound losses that no clipping touches; "
                  "give a factor above 1 (3 is common), or 0 for none",
                  options.dual_clip);
  if (options.surrogate != Surrogate::sapo) return;
  ARCHON_VALIDATE(options.dual_clip == 0,
                  "--dual-clip {} with --loss sapo: SAPO's gate bounds the loss already and clips "
                  "nothing; leave --dual-clip out, or give --loss grpo",
                  options.dual_clip);
  ARCHON_VALIDATE(
      !options.sequence_ratio,
      "--ratio sequence with --loss sapo: SAPO gates every token by its own ratio; leave "
      "--ratio out, or give --loss gspo");
  ARCHON_VALIDATE(
      options.sapo_tau_positive > 0 && options.sapo_tau_negative > 0,
      "SAPO's temperatures {} (positive advantages) and {} (negative ones) are not both "
      "above 0: the gate would not close; give positive numbers (1 and 1.05 are common)",
      options.sapo_tau_positive, options.sapo_tau_negative);
}

PolicyLoss policy_loss(const PolicyBatch& batch, const PolicyLossOptions& options) {
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
    log_ratio = at::where(batch.mask, mean(log_ratio), 0.0);
    advantages = at::where(batch.mask, mean(advantages), 0.0);
  }
  const at::Tensor ratio = log_ratio.exp(), none = at::zeros_like(batch.mask);
  PolicyLoss result{{}, of_targets(ratio.detach()), none, none, none, {}, none};
  if (options.surrogate == Surrogate::sapo)
    result.loss = -advantages * soft_gate(ratio, advantages, options);
  else
    clip(ratio, advantages, options, result);

  const at::Tensor weight = (proximal - of_targets(batch.behaviour_log_probs)).exp();
  result.behaviour_weight = of_targets(weight);
  if (options.behaviour_weight_cap > 0) result.capped = weight.gt(options.behaviour_weight_cap);
  result.loss =
      at::where(batch.mask.logical_and(result.capped.logical_not()), result.loss * weight, 0.0);
  return result;
}

}  // namespace archon
