#include "archon/loss/advantages.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "archon/base/error.hpp"
#include "targets.hpp"

namespace archon {
namespace {

constexpr double kRewardEpsilon = 1e-6, kWhiteningEpsilon = 1e-5;

at::Tensor in_double(const at::Tensor& x) { return x.detach().to(at::kDouble).contiguous(); }

/// Mean and population deviation of some values; a deviation of exactly 0 when all are equal.
struct Moments {
  double count = 0, mean = 0, deviation = 0;
  bool constant = true;

  explicit Moments(const std::vector<double>& values) : count(static_cast<double>(values.size())) {
    if (values.empty()) return;
    mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    constant = *least == *most;
    if (constant) return;
    double squares = 0;
    for (const double value : values) squares += (value - mean) * (value - mean);
    deviation = std::sqrt(squares / count);
  }
};

/// The sequences of each group, by its id; all in one for the norm `batch`.
std::map<int64_t, std::vector<int64_t>> group_members(const std::vector<int64_t>& group_ids,
                                                      int64_t sequences, RewardNorm norm) {
  ARCHON_ENSURE(norm == RewardNorm::batch || std::ssize(group_ids) == sequences,
                "{} group ids for {} sequences", group_ids.size(), sequences);
  std::map<int64_t, std::vector<int64_t>> members;
  for (int64_t i = 0; i < sequences; ++i)
    members[norm == RewardNorm::batch ? 0 : group_ids[i]].push_back(i);
  return members;
}

/// Refuses a group of one where it would need others.
void check_group(int64_t group, const std::vector<int64_t>& members, RewardNorm norm,
                 bool divide_by_std) {
  if (members.size() > 1) return;
  ARCHON_VALIDATE(norm != RewardNorm::batch || !divide_by_std,
                  "sequence {} is the only one, so its reward has no deviation to be divided by; "
                  "give more sequences, or do not divide by the deviation",
                  members[0]);
  ARCHON_VALIDATE(norm != RewardNorm::leave_one_out,
                  "group {} has a single sequence, {}, and no others whose mean could be its "
                  "baseline; sample several answers to each prompt, or normalise over the batch",
                  group, members[0]);
  ARCHON_VALIDATE(norm != RewardNorm::group || !divide_by_std,
                  "group {} has a single sequence, {}, whose reward has no deviation to be divided "
                  "by; sample several answers to each prompt, or normalise over the batch",
                  group, members[0]);
}

int64_t last_target(const bool* mask, int64_t begin, int64_t end) {
  for (int64_t t = end - 1; t >= begin; --t)
    if (mask[t]) return t;
  return -1;
}

}  // namespace

void validate(const AdvantageOptions& options) {
  const RewardOptions& reward = options.reward;
  ARCHON_VALIDATE(
      reward.clip >= 0,
      "rewards cannot be clipped to a magnitude of {}; give a bound above 0, or 0 for none",
      reward.clip);
  ARCHON_VALIDATE(reward.scale != 0,
                  "a reward scale of 0 leaves nothing to learn from; give another scale");
  ARCHON_VALIDATE(reward.overlong_length == 0 || (reward.overlong_buffer > 0 &&
                                                  reward.overlong_buffer <= reward.overlong_length),
                  "--overlong-buffer {} does not lie within --overlong-length {}: the punishment "
                  "grows over the buffer; give 1 to {}",
                  reward.overlong_buffer, reward.overlong_length, reward.overlong_length);
  ARCHON_VALIDATE(
      options.kl_coefficient >= 0,
      "the coefficient {} of the KL divergence is negative: it would reward leaving the "
      "reference; give a number above 0, or 0 for none",
      options.kl_coefficient);
  ARCHON_VALIDATE(
      options.gamma >= 0 && options.gamma <= 1 && options.lambda >= 0 && options.lambda <= 1,
      "gamma {} and lambda {} are not both in [0, 1]: advantages would grow with the "
      "distance to the reward; 1 and 0.95 are common",
      options.gamma, options.lambda);
}

at::Tensor answer_lengths(const at::Tensor& mask, const std::vector<int64_t>& cu_seqlens) {
  const auto sequences = static_cast<int64_t>(cu_seqlens.size()) - 1;
  const at::Tensor lengths = at::zeros({sequences}, at::kDouble);
  const bool* target = mask.const_data_ptr<bool>();
  for (int64_t i = 0; i < sequences; ++i)
    lengths.mutable_data_ptr<double>()[i] =
        static_cast<double>(std::count(target + cu_seqlens[i], target + cu_seqlens[i + 1], true));
  return lengths;
}

at::Tensor shape_rewards(const at::Tensor& rewards, const at::Tensor& lengths,
                         const RewardOptions& options) {
  at::Tensor shaped = in_double(rewards);
  if (options.overlong_length > 0) {
    const auto free = static_cast<double>(options.overlong_length - options.overlong_buffer);
    const auto buffer = static_cast<double>(options.overlong_buffer);
    shaped = shaped + options.overlong_penalty * ((free - lengths) / buffer).clamp(-1.0, 0.0);
  }
  shaped = (shaped + options.bias) * options.scale;
  return options.clip > 0 ? shaped.clamp(-options.clip, options.clip) : shaped;
}

at::Tensor normalise_rewards(const at::Tensor& rewards, const std::vector<int64_t>& group_ids,
                             RewardNorm norm, bool divide_by_std) {
  at::Tensor result = in_double(rewards).clone();
  if (norm == RewardNorm::none) return result;
  auto* reward = result.mutable_data_ptr<double>();
  for (const auto& [group, members] : group_members(group_ids, result.size(0), norm)) {
    check_group(group, members, norm, divide_by_std);
    std::vector<double> values;
    for (const int64_t i : members) values.push_back(reward[i]);
    const Moments moments(values);
    // r minus the mean of the others is r minus the mean of all, stretched.
    const double stretch =
        norm == RewardNorm::leave_one_out ? moments.count / (moments.count - 1.0) : 1.0;
    const double divisor = divide_by_std ? moments.deviation + kRewardEpsilon : 1.0;
    for (const int64_t i : members)
      reward[i] = moments.constant ? 0.0 : stretch * (reward[i] - moments.mean) / divisor;
  }
  return result;
}

at::Tensor token_rewards(const at::Tensor& rewards, const Rollouts& rollouts, double kl_coefficient,
                         KlEstimator estimator) {
  at::Tensor result = at::zeros({rollouts.mask.size(0)}, at::kDouble);
  if (kl_coefficient != 0)
    result = kl_estimate(rollouts.log_probs, rollouts.reference_log_probs, rollouts.mask, estimator)
                 .mul(-kl_coefficient);
  const at::Tensor sequence_rewards = in_double(rewards);
  const bool* mask = rollouts.mask.const_data_ptr<bool>();
  for (int64_t i = 0; i < sequence_rewards.size(0); ++i) {
    const int64_t t = last_target(mask, rollouts.cu_seqlens[i], rollouts.cu_seqlens[i + 1]);
    if (t >= 0)
      result.mutable_data_ptr<double>()[t] += sequence_rewards.const_data_ptr<double>()[i];
  }
  return result;
}

Advantages gae(const at::Tensor& token_rewards, const at::Tensor& values, const at::Tensor& mask,
               const std::vector<int64_t>& cu_seqlens, double gamma, double lambda) {
  const at::Tensor rewards = in_double(token_rewards);
  const at::Tensor baselines = values.defined() ? in_double(values) : at::zeros_like(rewards);
  const auto *reward = rewards.const_data_ptr<double>(),
             *value = baselines.const_data_ptr<double>();
  const bool* target = mask.const_data_ptr<bool>();
  const Advantages result{at::zeros_like(rewards), at::zeros_like(rewards)};
  auto *advantage = result.advantages.mutable_data_ptr<double>(),
       *returns = result.returns.mutable_data_ptr<double>();
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    double next_value = 0, next_advantage = 0;
    for (int64_t t = cu_seqlens[i + 1] - 1; t >= cu_seqlens[i]; --t) {
      if (!target[t]) continue;
      const double delta = reward[t] + gamma * next_value - value[t];
      advantage[t] = next_advantage = delta + gamma * lambda * next_advantage;
      returns[t] = advantage[t] + value[t];
      next_value = value[t];
    }
  }
  return result;
}

at::Tensor whiten(const at::Tensor& advantages, const at::Tensor& mask, Whitening whitening) {
  const at::Tensor inputs = of_targets(advantages.detach(), mask);
  if (whitening == Whitening::none) return inputs;
  const at::Tensor targets = inputs.masked_select(mask);
  const auto* first = targets.const_data_ptr<double>();
  const Moments moments({first, first + targets.numel()});
  const double mean = whitening == Whitening::full ? moments.mean : 0.0;
  // The epsilon alone would make huge numbers of equal ones.
  const double divisor = moments.constant ? 1.0 : moments.deviation + kWhiteningEpsilon;
  return of_targets((inputs - mean) / divisor, mask);
}

Advantages compute_advantages(const Rollouts& rollouts, const AdvantageOptions& options) {
  const at::Tensor shaped = shape_rewards(
      rollouts.rewards, answer_lengths(rollouts.mask, rollouts.cu_seqlens), options.reward);
  const at::Tensor normalised =
      normalise_rewards(shaped, rollouts.group_ids, options.norm, options.divide_by_std);
  Advantages result =
      gae(token_rewards(normalised, rollouts, options.kl_coefficient, options.kl_estimator),
          rollouts.values, rollouts.mask, rollouts.cu_seqlens, options.gamma, options.lambda);
  result.advantages = whiten(result.advantages, rollouts.mask, options.whitening);
  return result;
}

}  // namespace archon
