#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace archon {

/// One sampled answer, as token ids. Borrowed: valid during the call that it is given to.
struct RolloutView {
  int64_t group = 0;                         ///< the answers to one prompt have one group
  std::span<const int64_t> prompt = {};      ///< what came before the first generated token
  std::span<const int64_t> completion = {};  ///< all from it on, the stop token included
};

/// What answers are worth. A plugin derives its own and registers it under a name:
///
///     #include <archon/model/plugin.hpp>
///     struct Short : archon::RewardFunction {
///       double operator()(const archon::RolloutView& rollout) override {
///         return -0.01 * static_cast<double>(rollout.completion.size());
///       }
///     };
///     ARCHON_PLUGIN("short", "1.0", registry) {
///       registry.add_reward("short", std::make_unique<Short>);
///     }
///
/// One object scores all rollouts of a run, one after the other, in the order of the file.
class __attribute__((visibility("default"))) RewardFunction {
 public:
  virtual ~RewardFunction();
  /// A finite number. InputError for a rollout that it cannot judge.
  virtual double operator()(const RolloutView& rollout) = 0;
};

struct RewardSpec {
  std::string name;
  std::function<std::unique_ptr<RewardFunction>()> make;
  std::string plugin;  ///< file it came from
};

/// The reward functions that plugins brought, by name. One per process.
class RewardRegistry {
 public:
  static RewardRegistry& instance();

  /// InputError that names both plugins when the name is there already.
  void add(RewardSpec spec);
  /// InputError that lists the known names.
  const RewardSpec& find(const std::string& name) const;
  std::vector<const RewardSpec*> all() const;

 private:
  std::map<std::string, RewardSpec> specs_;
};

}  // namespace archon
