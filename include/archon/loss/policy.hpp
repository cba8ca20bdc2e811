#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

/// Clipped policy-gradient losses. All [T] tensors are of one whole packed stream and
/// position-aligned: entry t is about the token that follows token t.
namespace archon {

struct PolicyLossOptions {
  double eps_clip = 0.2;            ///< ratios below 1 - eps_clip are clipped
  double eps_clip_higher = 0.2;     ///< ratios above 1 + eps_clip_higher are clipped
  double dual_clip = 0;             ///< bound on the loss where the advantage is negative, as a
                                    ///< multiple of it, above 1; 0 = off
  double behaviour_weight_cap = 0;  ///< tokens of a larger importance weight drop out; 0 = off
  bool sequence_ratio = false;      ///< one ratio and one advantage a sequence (GSPO)
};

/// What a policy loss is computed from.
struct PolicyBatch {
  at::Tensor log_probs;             ///< [T] of the policy that is trained
  at::Tensor proximal_log_probs;    ///< [T] of the policy that ratios are taken to
  at::Tensor behaviour_log_probs;   ///< [T] of the policy that sampled the tokens
  at::Tensor advantages;            ///< [T]
  at::Tensor mask;                  ///< bool [T]; targets; other entries may hold anything
  std::vector<int64_t> cu_seqlens;  ///< [N+1]; padding may follow the last
};

/// The loss of every token, float64 [T], 0 where it is no target; differentiable in log_probs.
///
///     r = exp(log_probs − proximal);  l = max(−A·r, −A·clip(r, 1 − eps_clip, 1 + eps_clip_higher))
///     l = min(l, dual_clip·|A|);      l · w, w = exp(proximal − behaviour), 0 above the cap
///
/// Clipping: PPO (Schulman et al. 2017, arXiv:1707.06347), with an upper bound of its own as in
/// DAPO (Yu et al. 2025, arXiv:2503.14476). Dual clip: Ye et al. 2020, arXiv:1912.09729. Proximal
/// apart from behaviour policy: Hilton et al. 2022, arXiv:2110.00641. With `sequence_ratio`, log r
/// and A are their means over the sequence's targets: GSPO (Zheng et al. 2025, arXiv:2507.18071).
at::Tensor policy_loss(const PolicyBatch& batch, const PolicyLossOptions& options);

}  // namespace archon
