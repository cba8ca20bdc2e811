#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "archon/loss/kl.hpp"

/// Advantages from rewards, over a whole file of rollouts on one rank, in float64 and without
/// gradient. [N] tensors hold a value a sequence, [T] tensors a value a token, all aligned alike
/// (token-aligned, as in files); what is no target may hold anything. Inputs may be of any floating
/// type; results are float64.
namespace archon {

struct RewardOptions {
  double bias = 0;
  double scale = 1;
  double clip = 0;              ///< bound on the reward's magnitude; 0 = off
  int64_t overlong_length = 0;  ///< longest answer, in targets; 0 = no over-long punishment
  int64_t overlong_buffer = 0;  ///< targets before the longest over which punishment grows
  double overlong_penalty = 1;  ///< at the longest answer and beyond
};

enum class RewardNorm {
  none,
  group,         ///< minus the mean of the group (GRPO: Shao et al. 2024, arXiv:2402.03300)
  batch,         ///< minus the mean of all
  leave_one_out  ///< minus the mean of the group's others (RLOO: Ahmadian et al. 2024,
                 ///< arXiv:2402.14740, with divide_by_std off)
};

enum class Whitening {
  none,
  scale,  ///< advantages ÷ their deviation
  full    ///< minus their mean, too (REINFORCE++: Hu et al. 2025, arXiv:2501.03262, with
          ///< RewardNorm::none and a KL reward of k1)
};

struct AdvantageOptions {
  RewardOptions reward{};
  RewardNorm norm = RewardNorm::group;
  bool divide_by_std = true;  ///< of the group or the batch; off in Dr.GRPO (Liu et al. 2025,
                              ///< arXiv:2503.20783) and RLOO
  double kl_coefficient = 0;  ///< of the KL divergence as a reward; 0 = off
  KlEstimator kl_estimator = KlEstimator::k1;
  double gamma = 1;
  double lambda = 1;
  Whitening whitening = Whitening::none;
};

/// InputError that names the option.
void validate(const AdvantageOptions& options);

/// What advantages are computed from.
struct Rollouts {
  at::Tensor rewards;               ///< [N]
  std::vector<int64_t> group_ids;   ///< [N]; for the norms `group` and `leave_one_out`
  at::Tensor mask;                  ///< bool [T]; targets
  std::vector<int64_t> cu_seqlens;  ///< [N+1]
  at::Tensor log_probs;             ///< [T] of the policy that sampled; for a KL reward
  at::Tensor reference_log_probs;   ///< [T]; for a KL reward
  at::Tensor values;                ///< [T] of a critic, entry t for the state before token t;
                                    ///< undefined = 0 everywhere
};

struct Advantages {
  at::Tensor advantages;  ///< [T]; 0 where no target
  at::Tensor returns;     ///< [T]; advantages (before whitening) + values; 0 where no target
};

/// Rewards shaped, normalised, put on tokens, accumulated and whitened: the functions below in
/// their order.
Advantages compute_advantages(const Rollouts& rollouts, const AdvantageOptions& options);

/// Targets of every sequence, float64 [N].
at::Tensor answer_lengths(const at::Tensor& mask, const std::vector<int64_t>& cu_seqlens);

/// clip((r + punishment + bias) · scale, ±clip), [N]. The punishment of an answer of L targets is
/// overlong_penalty times 0 up to overlong_length − overlong_buffer, from there down linearly to −1
/// at overlong_length, −1 beyond (DAPO, Yu et al. 2025, arXiv:2503.14476, eq. 13).
at::Tensor shape_rewards(const at::Tensor& rewards, const at::Tensor& lengths,
                         const RewardOptions& options);

/// (r − mean) ÷ (std + 1e-6), [N], std that of the population; 0 where all rewards are equal.
/// InputError for a group of one where the norm needs others.
at::Tensor normalise_rewards(const at::Tensor& rewards, const std::vector<int64_t>& group_ids,
                             RewardNorm norm, bool divide_by_std);

/// [T]: −kl_coefficient · kl_estimate at every target, and the sequence's reward ([N]) at its last
/// one. Without coefficient no log-probabilities are needed.
at::Tensor token_rewards(const at::Tensor& rewards, const Rollouts& rollouts, double kl_coefficient,
                         KlEstimator estimator);

/// Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438) over each sequence's
/// targets, as if nothing lay between them:
///
///     δ_t = r_t + gamma·V_{t+1} − V_t;  A_t = δ_t + gamma·lambda·A_{t+1};  beyond the last both 0
///
/// With gamma = lambda = 1 and undefined values: the rewards from t to the end.
Advantages gae(const at::Tensor& token_rewards, const at::Tensor& values, const at::Tensor& mask,
               const std::vector<int64_t>& cu_seqlens, double gamma, double lambda);

/// (A − mean) ÷ (std + 1e-5) over all targets, [T]; `scale` leaves the mean where it is. Where all
/// are equal nothing is divided.
at::Tensor whiten(const at::Tensor& advantages, const at::Tensor& mask, Whitening whitening);

}  // namespace archon
