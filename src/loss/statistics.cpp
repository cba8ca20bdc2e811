#include "archon/loss/statistics.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/masked_select.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "archon/base/checksum.hpp"
#include "archon/base/error.hpp"
#include "archon/loss/kl.hpp"

namespace archon {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

LossStatistics::Entry& LossStatistics::entry(const std::string& name, Kind kind) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.name == name; });
  if (found != entries_.end()) return *found;
  return entries_.emplace_back(Entry{name, kind, kind == Kind::mean ? 0.0 : -kInfinity, 0.0});
}

void LossStatistics::add_sum(const std::string& name, double sum, double count) {
  Entry& mean = entry(name, Kind::mean);
  mean.value += sum;
  mean.count += count;
}

void LossStatistics::add_max(const std::string& name, double value) {
  // A NaN would win or lose by its place in the order.
  double& max = entry(name, Kind::max).value;
  max = std::max(max, std::isnan(value) ? kInfinity : value);
}

// Held as the maximum of the negative, so that one collective reduces all extremes.
void LossStatistics::add_min(const std::string& name, double value) {
  double& max = entry(name, Kind::min).value;
  max = std::max(max, std::isnan(value) ? kInfinity : -value);
}

void LossStatistics::add_mean(const std::string& name, const at::Tensor& values,
                              const at::Tensor& mask) {
  const at::Tensor counted = values.detach().masked_select(mask).to(at::kDouble);
  add_sum(name, counted.sum().item<double>(), static_cast<double>(counted.numel()));
}

void LossStatistics::add_range(const std::string& name, const at::Tensor& values,
                               const at::Tensor& mask) {
  const at::Tensor counted = values.detach().masked_select(mask).to(at::kDouble);
  const bool any = counted.numel() > 0;
  add_sum(name + "_mean", counted.sum().item<double>(), static_cast<double>(counted.numel()));
  add_min(name + "_min", any ? counted.min().item<double>() : kInfinity);
  add_max(name + "_max", any ? counted.max().item<double>() : -kInfinity);
}

void LossStatistics::check_names(const Communicator& group) const {
  std::string names;
  for (const Entry& entry : entries_) names += entry.name + "\n";
  const auto hash = static_cast<int64_t>(xxh3_64(names.data(), names.size()));
  const bool same = group.all_reduce(hash, ReduceOp::min) == group.all_reduce(hash, ReduceOp::max);
  ARCHON_ENSURE(same, "the ranks of {} count different statistics; here they are {}", group.name(),
                names);
}

LossStatistics::Row LossStatistics::reduce(const Communicator& group) const {
  check_names(group);
  const auto count = static_cast<int64_t>(entries_.size());
  const at::Tensor sums = at::zeros({count, 2}, at::kDouble);
  const at::Tensor extremes = at::zeros({count}, at::kDouble);
  auto* sum = sums.mutable_data_ptr<double>();
  auto* extreme = extremes.mutable_data_ptr<double>();
  for (int64_t i = 0; i < count; ++i) {
    const Entry& entry = entries_[i];
    if (entry.kind == Kind::mean)
      sum[2 * i] = entry.value, sum[2 * i + 1] = entry.count;
    else
      extreme[i] = entry.value;
  }
  group.all_reduce(sums);
  group.all_reduce(extremes, ReduceOp::max);
  Row row;
  for (int64_t i = 0; i < count; ++i) {
    double value = sum[2 * i] / sum[2 * i + 1];
    if (entries_[i].kind != Kind::mean) value = extreme[i];
    if (entries_[i].kind == Kind::min) value = -value;
    row.emplace_back(entries_[i].name, std::isfinite(value) ? value : std::nan(""));
  }
  return row;
}

void add_policy_statistics(LossStatistics& statistics, const PolicyBatch& batch,
                           const PolicyLoss& loss, const PolicyLossOptions& options,
                           const at::Tensor& entropy, const at::Tensor& reference_log_probs) {
  const at::Tensor& mask = batch.mask;
  const at::Tensor current = batch.log_probs.detach();
  const auto divergence = [&](const char* name, const at::Tensor& p, const at::Tensor& q) {
    statistics.add_mean(name, kl_estimate(p, q, mask, KlEstimator::k3), mask);
  };
  statistics.add_range("ratio", loss.ratio, mask);
  if (options.surrogate == Surrogate::clip) {
    statistics.add_mean("clip_fraction_low", loss.clipped_low, mask);
    statistics.add_mean("clip_fraction_high", loss.clipped_high, mask);
  }
  if (options.dual_clip > 0) statistics.add_mean("dual_clip_fraction", loss.dual_clipped, mask);
  statistics.add_range("behaviour_weight", loss.behaviour_weight, mask);
  if (options.behaviour_weight_cap > 0) statistics.add_mean("capped_fraction", loss.capped, mask);
  divergence("kl_proximal", batch.proximal_log_probs, current);
  divergence("kl_behaviour", batch.behaviour_log_probs, current);
  statistics.add_range("advantage", batch.advantages, mask);
  if (entropy.defined()) statistics.add_mean("entropy", entropy, mask);
  if (reference_log_probs.defined()) divergence("kl_reference", current, reference_log_probs);
}

void add_critic_statistics(LossStatistics& statistics, const CriticBatch& batch,
                           const CriticLoss& loss, const CriticLossOptions& options) {
  const at::Tensor error = batch.values.detach() - batch.returns;
  statistics.add_range("value", batch.values, batch.mask);
  statistics.add_range("return", batch.returns, batch.mask);
  statistics.add_mean("value_error", error * error, batch.mask);
  if (options.eps_clip > 0) statistics.add_mean("value_clip_fraction", loss.clipped, batch.mask);
}

void add_dpo_statistics(LossStatistics& statistics, const DpoLoss& loss) {
  const at::Tensor margin = loss.chosen_rewards - loss.rejected_rewards;
  const at::Tensor all = at::ones_like(margin, at::kBool);
  statistics.add_mean("chosen_reward", loss.chosen_rewards, all);
  statistics.add_mean("rejected_reward", loss.rejected_rewards, all);
  statistics.add_mean("reward_margin", margin, all);
  statistics.add_mean("preference_accuracy", margin.gt(0), all);
}

}  // namespace archon
