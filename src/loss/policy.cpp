#include "archon/loss/policy.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros_like.h>

#include "archon/base/error.hpp"
#include "sequence_sums.hpp"
#include "targets.hpp"

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
  const at::Tensor& mask = batch.mask;
  const at::Tensor proximal = of_targets(batch.proximal_log_probs, mask);
  at::Tensor log_ratio = of_targets(batch.log_probs, mask) - proximal;
  at::Tensor advantages = of_targets(batch.advantages, mask);
  if (options.sequence_ratio) {
    const SequenceMean mean(batch);
    log_ratio = of_targets(mean(log_ratio), mask);
    advantages = of_targets(mean(advantages), mask);
  }
  const at::Tensor ratio = log_ratio.exp(), none = at::zeros_like(mask);
  PolicyLoss result{{}, of_targets(ratio.detach(), mask), none, none, none, {}, none};
  if (options.surrogate == Surrogate::sapo)
    result.loss = -advantages * soft_gate(ratio, advantages, options);
  else
    clip(ratio, advantages, options, result);

  const at::Tensor weight = (proximal - of_targets(batch.behaviour_log_probs, mask)).exp();
  result.behaviour_weight = of_targets(weight, mask);
  if (options.behaviour_weight_cap > 0) result.capped = weight.gt(options.behaviour_weight_cap);
  result.loss = of_targets(result.loss * weight.masked_fill(result.capped, 0.0), mask);
  return result;
}

}  // namespace archon
