#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "archon/engine/options.hpp"

/// The words that the command line and checkpoints have for what options choose between.
namespace archon {

template <class T>
using OptionWords = std::vector<std::pair<std::string, T>>;

/// The word of a value that has one.
template <class T>
std::string word_of(const OptionWords<T>& words, const T& value) {
  return std::ranges::find(words, value, &std::pair<std::string, T>::second)->first;
}

inline const OptionWords<LossKind> kLossWords = {
    {"sft", LossKind::sft},   {"critic", LossKind::critic}, {"grpo", LossKind::grpo},
    {"ppo", LossKind::ppo},   {"gspo", LossKind::gspo},     {"sapo", LossKind::sapo},
    {"dpo", LossKind::dpo}};
inline const OptionWords<Aggregate> kAggregateWords = {
    {"token-mean", Aggregate::token_mean},
    {"sequence-mean", Aggregate::sequence_mean},
    {"sequence-sum", Aggregate::sequence_sum}};
/// Of PolicyLossOptions::sequence_ratio.
inline const OptionWords<bool> kRatioWords = {{"token", false}, {"sequence", true}};
inline const OptionWords<Proximal> kProximalWords = {{"auto", Proximal::automatic},
                                                     {"file", Proximal::file},
                                                     {"recompute", Proximal::recompute},
                                                     {"behaviour", Proximal::behaviour}};
inline const OptionWords<KlEstimator> kKlEstimatorWords = {
    {"k1", KlEstimator::k1}, {"k2", KlEstimator::k2}, {"k3", KlEstimator::k3}};
/// Of LossOptions::kl_in_reward.
inline const OptionWords<bool> kKlInWords = {{"loss", false}, {"reward", true}};
inline const OptionWords<std::optional<RewardNorm>> kRewardNormWords = {
    {"auto", {}},
    {"none", RewardNorm::none},
    {"group", RewardNorm::group},
    {"batch", RewardNorm::batch},
    {"leave-one-out", RewardNorm::leave_one_out}};
inline const OptionWords<Whitening> kWhiteningWords = {
    {"off", Whitening::none}, {"scale", Whitening::scale}, {"on", Whitening::full}};
inline const OptionWords<ValueError> kValueErrorWords = {{"mse", ValueError::mse},
                                                         {"huber", ValueError::huber}};
inline const OptionWords<OptimizerKind> kOptimizerWords = {{"adamw", OptimizerKind::adamw},
                                                           {"sgd", OptimizerKind::sgd}};
inline const OptionWords<LrSchedule::Shape> kLrScheduleWords = {
    {"constant", LrSchedule::Shape::constant},
    {"linear", LrSchedule::Shape::linear},
    {"cosine", LrSchedule::Shape::cosine}};

}  // namespace archon
