#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

/// Policy-gradient losses. All [T] tensors are of one whole packed stream and position-aligned:
/// entry t is about the token that follows token t.
namespace archon {

/// What keeps the policy near the proximal one.
enum class Surrogate {
  clip,  ///< ratios are clipped (PPO)
  sapo   ///< ratios go through a soft gate (SAPO)
};

struct PolicyLossOptions {
  double eps_clip = 0.2;            ///< ratios below 1 - eps_clip are clipped
  double eps_clip_higher = 0.2;     ///< ratios above 1 + eps_clip_higher are clipped
  double dual_clip = 0;             ///< bound on the loss where the advantage is negative, as a
                                    ///< multiple of it, above 1; 0 = off
  double behaviour_weight_cap = 0;  ///< tokens of a larger importance weight drop out; 0 = off
  bool sequence_ratio = false;      ///< one ratio and one advantage a sequence (GSPO)
  Surrogate surrogate = Surrogate::clip;
  double sapo_tau_positive = 1.0;   ///< the gate's steepness where the advantage is positive
  double sapo_tau_negative = 1.05;  ///< and elsewhere
};

/// InputError that names the option, or the options that exclude each other.
void validate(const PolicyLossOptions& options);

/// What a policy loss is computed from.
struct PolicyBatch {
  at::Tensor log_probs;             ///< [T] of the policy that is trained
  at::Tensor proximal_log_probs;    ///< [T] of the policy that ratios are taken to
  at::Tensor behaviour_log_probs;   ///< [T] of the policy that sampled the tokens
  at::Tensor advantages;            ///< [T]
  at::Tensor mask;                  ///< bool [T]; targets; other entries may hold anything
  std::vector<int64_t> cu_seqlens;  ///< [N+1]; padding may follow the last
};

/// The loss of every token, and what happened to it; 0 and false where it is no target. All but
/// the loss is without gradient.
struct PolicyLoss {
  at::Tensor loss;              ///< float64 [T]; differentiable in log_probs
  at::Tensor ratio;             ///< float64 [T], before clipping; with `sequence_ratio` its
                                ///< sequence's
  at::Tensor clipped_low;       ///< bool [T]; the lower bound took its gradient away
  at::Tensor clipped_high;      ///< bool [T]; the upper bound did
  at::Tensor dual_clipped;      ///< bool [T]; the dual clip did
  at::Tensor behaviour_weight;  ///< float64 [T], before the cap
  at::Tensor capped;            ///< bool [T]; dropped for its behaviour weight
};

/// With r = exp(log_probs − proximal), A the advantage and w = exp(proximal − behaviour):
///
///     clip   l = max(−A·r, −A·clip(r, 1 − eps_clip, 1 + eps_clip_higher));
///            with a dual clip min(l, dual_clip·|A|)
///     sapo   l = −A · 4/τ · sigmoid(τ·(r − 1)), τ by the sign of A
///     both   l · w, 0 where w is above the cap
///
/// Clipping: PPO (Schulman et al. 2017, arXiv:1707.06347), with an upper bound of its own as in
/// DAPO (Yu et al. 2025, arXiv:2503.14476). Dual clip: Ye et al. 2020, arXiv:1912.09729. Proximal
/// apart from behaviour policy: Hilton et al. 2022, arXiv:2110.00641. With `sequence_ratio`, log r
/// and A are their means over the sequence's targets: GSPO (Zheng et al. 2025, arXiv:2507.18071).
/// SAPO: Gao et al. 2025, arXiv:2511.20347.
PolicyLoss policy_loss(const PolicyBatch& batch, const PolicyLossOptions& options);

}  // namespace archon
