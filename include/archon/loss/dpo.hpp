#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace archon {

struct DpoOptions {
  double beta = 0.1;           ///< how dear it is to leave the reference policy
  double label_smoothing = 0;  ///< probability that a preference is the wrong way round, below 0.5
};

/// InputError that names the option.
void validate(const DpoOptions& options);

/// Neighbouring sequences of a packed stream are pairs: 2i is chosen, 2i+1 rejected.
struct DpoBatch {
  at::Tensor log_probs;             ///< [T], position-aligned, of the policy that is trained
  at::Tensor reference_log_probs;   ///< [T]
  at::Tensor mask;                  ///< bool [T]; targets; other entries may hold anything
  std::vector<int64_t> cu_seqlens;  ///< [N+1], N even; padding may follow the last
};

/// All float64 [N/2].
struct DpoLoss {
  at::Tensor loss;              ///< of every pair; differentiable in log_probs
  at::Tensor chosen_rewards;    ///< beta · Δ of the chosen sequence, without gradient
  at::Tensor rejected_rewards;  ///< the same of the rejected one
};

/// −(1 − s)·log σ(m) − s·log σ(−m), m = beta·(Δchosen − Δrejected), Δ = Σ over the sequence's
/// targets of log_probs − reference, s = label_smoothing: DPO (Rafailov et al. 2023,
/// arXiv:2305.18290), smoothed as in cDPO (Mitchell 2023). InputError if N is odd.
DpoLoss dpo_loss(const DpoBatch& batch, const DpoOptions& options);

}  // namespace archon
