// Statistics over a global batch: the same from any number of ranks.
#include "archon/loss/statistics.hpp"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <map>

#include "archon/parallel/partition.hpp"
#include "support.hpp"
#include "support/tensors.hpp"
#include "support/world.hpp"

using archon::Communicator;
using archon::LossStatistics;
using archon::PolicyBatch;
using archon::PolicyLossOptions;
using namespace archon::test;

namespace {

std::vector<std::string> names(const LossStatistics::Row& row) {
  std::vector<std::string> result;
  for (const auto& [name, value] : row) result.push_back(name);
  return result;
}

std::map<std::string, double> by_name(const LossStatistics::Row& row) {
  return {row.begin(), row.end()};
}

/// Sequences of four tokens; every third token is no target, and neither are those of every fourth
/// sequence.
struct Rollout {
  static constexpr int64_t kSequences = 8, kTokens = 4 * kSequences;
  at::Tensor current = noise({kTokens}, 1), proximal = noise({kTokens}, 2),
             behaviour = noise({kTokens}, 3), advantages = noise({kTokens}, 4),
             entropy = noise({kTokens}, 5), reference = noise({kTokens}, 6);
  at::Tensor mask = mask_of(kTokens, [](int64_t t) { return t % 3 != 0 && t / 4 % 4 != 2; });

  /// Statistics of sequences [begin, end), with NaN where there is no target.
  void add(LossStatistics& statistics, int64_t begin, int64_t end,
           const PolicyLossOptions& options) const {
    const auto part = [&](const at::Tensor& x) {
      return x.narrow(0, 4 * begin, 4 * (end - begin));
    };
    const at::Tensor targets = part(mask);
    const auto spoilt = [&](const at::Tensor& x) { return spoiled(part(x), targets); };
    PolicyBatch batch{spoilt(current),    spoilt(proximal), spoilt(behaviour),
                      spoilt(advantages), targets,          {}};
    for (int64_t i = 0; i <= end - begin; ++i) batch.cu_seqlens.push_back(4 * i);
    add_policy_statistics(statistics, batch, policy_loss(batch, options), options, spoilt(entropy),
                          spoilt(reference));
  }
};

const PolicyLossOptions kOptions{.dual_clip = 1.5, .behaviour_weight_cap = 1.4};

LossStatistics::Row policy_row(const Rollout& rollout, const Communicator& group) {
  LossStatistics statistics;
  const auto mine = archon::even_range(Rollout::kSequences, group.size(), group.rank());
  // Two micro-batches, the first of which may be empty.
  const int64_t middle = mine.begin + mine.size() / 2;
  rollout.add(statistics, mine.begin, middle, kOptions);
  rollout.add(statistics, middle, mine.end, kOptions);
  return statistics.reduce(group);
}

/// The same from the definitions, token by token.
std::map<std::string, double> expected(const Rollout& rollout) {
  const auto current = numbers(rollout.current), proximal = numbers(rollout.proximal),
             behaviour = numbers(rollout.behaviour), advantage = numbers(rollout.advantages),
             entropy = numbers(rollout.entropy), reference = numbers(rollout.reference);
  std::map<std::string, std::vector<double>> all;
  for (int64_t t = 0; t < Rollout::kTokens; ++t) {
    if (!rollout.mask.const_data_ptr<bool>()[t]) continue;
    const double r = std::exp(current[t] - proximal[t]), a = advantage[t];
    const double w = std::exp(proximal[t] - behaviour[t]), all_r = r * w;
    const double q = std::exp(reference[t] - current[t]);
    all["ratio"].push_back(r);
    all["behaviour_weight"].push_back(w);
    all["advantage"].push_back(a);
    all["clip_fraction_low"].push_back(r < 0.8 && a < 0);
    all["clip_fraction_high"].push_back(r > 1.2 && a > 0);
    all["dual_clip_fraction"].push_back(r > 1.5 && a < 0);
    all["capped_fraction"].push_back(w > 1.4);
    all["kl_proximal"].push_back(r - 1 - std::log(r));
    all["kl_behaviour"].push_back(all_r - 1 - std::log(all_r));
    all["kl_reference"].push_back(q - 1 - std::log(q));
    all["entropy"].push_back(entropy[t]);
  }
  std::map<std::string, double> result;
  for (const auto& [name, values] : all) {
    double sum = 0;
    for (const double value : values) sum += value;
    const bool range = name == "ratio" || name == "behaviour_weight" || name == "advantage";
    result[range ? name + "_mean" : name] = sum / static_cast<double>(values.size());
    if (!range) continue;
    result[name + "_min"] = *std::min_element(values.begin(), values.end());
    result[name + "_max"] = *std::max_element(values.begin(), values.end());
  }
  return result;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(statistics)

BOOST_AUTO_TEST_CASE(means_and_extremes_are_those_of_all_ranks) {
  const Communicator group = world_group();
  LossStatistics statistics;
  const int rank = group.rank(), size = group.size();
  statistics.add_sum("mean", rank, 2);
  statistics.add_sum("mean", 1, 1);
  statistics.add_max("max", rank);
  statistics.add_min("min", -rank);
  statistics.add_min("min", 5);
  const auto row = statistics.reduce(group);
  BOOST_TEST((names(row) == std::vector<std::string>{"mean", "max", "min"}));
  BOOST_TEST(by_name(row).at("mean") == (size * (size - 1) / 2.0 + size) / (3.0 * size));
  BOOST_TEST(by_name(row).at("max") == size - 1);
  BOOST_TEST(by_name(row).at("min") == 1 - size);
}

BOOST_AUTO_TEST_CASE(nothing_counted_is_nan) {
  const Communicator group = world_group();
  LossStatistics statistics;
  statistics.add_range("ratio", at::zeros({3}), at::zeros({3}, at::kBool));
  for (const auto& [name, value] : statistics.reduce(group))
    BOOST_CHECK_MESSAGE(std::isnan(value), name << " is " << value);
}

BOOST_AUTO_TEST_CASE(one_rank_without_targets_changes_nothing) {
  const Communicator group = world_group();
  LossStatistics statistics;
  const bool last = group.rank() == group.size() - 1;
  statistics.add_range("length", tensor_of({3, 5}), mask_of(2, [&](int64_t) { return last; }));
  const auto row = by_name(statistics.reduce(group));
  BOOST_TEST(row.at("length_mean") == 4);
  BOOST_TEST(row.at("length_min") == 3);
  BOOST_TEST(row.at("length_max") == 5);
}

BOOST_AUTO_TEST_CASE(a_nan_shows_wherever_it_is) {
  const Communicator group = world_group();
  LossStatistics statistics;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const bool first = group.rank() == 0;
  statistics.add_max("max", first ? nan : 1.0);
  statistics.add_min("min", first ? nan : 1.0);
  for (const auto& [name, value] : statistics.reduce(group))
    BOOST_CHECK_MESSAGE(std::isnan(value), name << " is " << value);
}

BOOST_AUTO_TEST_CASE(ranks_with_other_names_are_noticed) {
  const Communicator group = world_group();
  if (group.size() == 1) return;
  LossStatistics statistics;
  statistics.add_sum(group.rank() == 0 ? "entropy" : "ratio", 1, 1);
  BOOST_CHECK_THROW(statistics.reduce(group), archon::RuntimeFailure);
}

BOOST_AUTO_TEST_CASE(policy_statistics_equal_their_definitions_on_any_mesh) {
  const Rollout rollout;
  const auto got = policy_row(rollout, world_group());
  const auto want = expected(rollout);
  BOOST_TEST(got.size() == want.size());
  for (const auto& [name, value] : got) BOOST_TEST_CONTEXT(name) {
      BOOST_REQUIRE(want.contains(name));
      BOOST_TEST(value == want.at(name), boost::test_tools::tolerance(1e-12));
    }
}

BOOST_AUTO_TEST_CASE(names_are_those_of_the_configuration) {
  LossStatistics statistics;
  const at::Tensor none = at::zeros({0}, at::kDouble), mask = at::zeros({0}, at::kBool);
  const PolicyBatch batch{none, none, none, none, mask, {0}};
  const PolicyLossOptions options{.surrogate = archon::Surrogate::sapo};
  add_policy_statistics(statistics, batch, policy_loss(batch, options), options);
  const std::vector<std::string> want = {"ratio_mean",
                                         "ratio_min",
                                         "ratio_max",
                                         "behaviour_weight_mean",
                                         "behaviour_weight_min",
                                         "behaviour_weight_max",
                                         "kl_proximal",
                                         "kl_behaviour",
                                         "advantage_mean",
                                         "advantage_min",
                                         "advantage_max"};
  BOOST_TEST((names(statistics.reduce(Communicator::self())) == want));
}

BOOST_AUTO_TEST_CASE(critic_and_preference_statistics_equal_their_definitions) {
  const at::Tensor mask = mask_of(4, [](int64_t t) { return t != 1; });
  const archon::CriticBatch batch{tensor_of({1, 7, 2, 3}), tensor_of({1, 7, 0, 3}),
                                  tensor_of({2, 7, 3, 1}), mask};
  const archon::CriticLossOptions options{.eps_clip = 0.5};
  LossStatistics statistics;
  add_critic_statistics(statistics, batch, critic_loss(batch, options), options);
  add_dpo_statistics(statistics, {{}, tensor_of({1, 2}), tensor_of({3, 0.5})});
  auto row = by_name(statistics.reduce(Communicator::self()));
  const std::map<std::string, double> want = {
      {"value_mean", 2},        {"value_min", 1},
      {"value_max", 3},         {"return_mean", 2},
      {"return_min", 1},        {"return_max", 3},
      {"value_error", 2},       {"value_clip_fraction", 1.0 / 3},
      {"chosen_reward", 1.5},   {"rejected_reward", 1.75},
      {"reward_margin", -0.25}, {"preference_accuracy", 0.5}};
  BOOST_TEST(row.size() == want.size());
  for (const auto& [name, value] : want)
    BOOST_TEST_CONTEXT(name) BOOST_TEST(row[name] == value, boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_SUITE_END()
