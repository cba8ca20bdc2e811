#include "archon/loss/dpo.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_sigmoid.h>

#include "archon/base/error.hpp"
#include "sequence_sums.hpp"
#include "targets.hpp"

namespace archon {

void validate(const DpoOptions& options) {
  ARCHON_VALIDATE(
      options.beta > 0,
      "DPO's beta {} is not above 0: the preferences would not matter, or be learnt the "
      "wrong way round; give a number above 0 (0.1 is common)",
      options.beta);
  ARCHON_VALIDATE(options.label_smoothing >= 0 && options.label_smoothing < 0.5,
                  "DPO's label smoothing {} is not in [0, 0.5): it is the probability that a "
                  "preference is the wrong way round; give a smaller one, or 0",
                  options.label_smoothing);
}

DpoLoss dpo_loss(const DpoBatch& batch, const DpoOptions& options) {
  const auto sequences = static_cast<int64_t>(batch.cu_seqlens.size()) - 1;
  ARCHON_VALIDATE(sequences % 2 == 0,
                  "{} sequences are no pairs: DPO takes each chosen sequence with the rejected one "
                  "that follows it; give an even number of sequences",
                  sequences);
  const at::Tensor log_ratio =
      of_targets(batch.log_probs, batch.mask) - of_targets(batch.reference_log_probs, batch.mask);
  const at::Tensor rewards = options.beta * SequenceSums(batch.cu_seqlens, batch.mask.size(0))
                                                .sum(log_ratio)
                                                .narrow(0, 0, sequences)
                                                .view({-1, 2});
  const at::Tensor chosen = rewards.select(1, 0), rejected = rewards.select(1, 1);
  const at::Tensor margin = chosen - rejected;
  const double smoothing = options.label_smoothing;
  return {-(1.0 - smoothing) * at::log_sigmoid(margin) - smoothing * at::log_sigmoid(-margin),
          chosen.detach(), rejected.detach()};
}

}  // namespace archon
