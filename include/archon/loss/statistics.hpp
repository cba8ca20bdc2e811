#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "archon/loss/critic.hpp"
#include "archon/loss/dpo.hpp"
#include "archon/loss/policy.hpp"

namespace archon {

/// Named means and extremes over a global batch: added up over micro-batches, then reduced over
/// ranks. Which names there are, and their order, must depend on the configuration alone and be the
/// same on all ranks: a rank without a target adds counts of zero.
class LossStatistics {
 public:
  using Row = std::vector<std::pair<std::string, double>>;

  /// `name` is reported as all sums ÷ all counts.
  void add_sum(const std::string& name, double sum, double count);
  void add_max(const std::string& name, double value);
  void add_min(const std::string& name, double value);
  /// The sum and the number of the values where `mask` is true; both of one shape.
  void add_mean(const std::string& name, const at::Tensor& values, const at::Tensor& mask);
  /// The same as NAME_mean, with NAME_min and NAME_max.
  void add_range(const std::string& name, const at::Tensor& values, const at::Tensor& mask);

  /// In order of their first mention; NaN where nothing was counted. Collective: over the ranks
  /// that counted different tokens. RuntimeFailure when they do not have the same names.
  Row reduce(const Communicator& group) const;

 private:
  enum class Kind { mean, max, min };
  struct Entry {
    std::string name;
    Kind kind;
    double value;
    double count;
  };

  Entry& entry(const std::string& name, Kind kind);
  void check_names(const Communicator& group) const;

  std::vector<Entry> entries_;
};

/// Over targets: `ratio_*`, `advantage_*`, `behaviour_weight_*` (mean, min, max); `kl_proximal`,
/// `kl_behaviour`: k3 of KL(that policy ‖ the trained one); where the options have it in use
/// `clip_fraction_low`, `clip_fraction_high`, `dual_clip_fraction`, `capped_fraction`; where given
/// (float [T]) `entropy` and `kl_reference`, k3 of KL(trained ‖ reference).
void add_policy_statistics(LossStatistics& statistics, const PolicyBatch& batch,
                           const PolicyLoss& loss, const PolicyLossOptions& options,
                           const at::Tensor& entropy = {},
                           const at::Tensor& reference_log_probs = {});

/// Over targets: `value_*`, `return_*`, `value_error` (mean square), and with clipping
/// `value_clip_fraction`.
void add_critic_statistics(LossStatistics& statistics, const CriticBatch& batch,
                           const CriticLoss& loss, const CriticLossOptions& options);

/// Over pairs: `chosen_reward`, `rejected_reward`, `reward_margin`, `preference_accuracy` (the
/// chosen one's reward is the larger).
void add_dpo_statistics(LossStatistics& statistics, const DpoLoss& loss);

}  // namespace archon
