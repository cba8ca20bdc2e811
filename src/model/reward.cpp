#include "archon/model/reward.hpp"

#include <fmt/ranges.h>

#include <utility>

#include "archon/base/error.hpp"

namespace archon {

// Defined here so that the type information lives in libarchon, one copy for all plugins.
RewardFunction::~RewardFunction() = default;

RewardRegistry& RewardRegistry::instance() {
  static RewardRegistry registry;
  return registry;
}

void RewardRegistry::add(RewardSpec spec) {
  ARCHON_VALIDATE(
      !spec.name.empty() && spec.make,
      "plugin {} registers the reward \"{}\" without a name, or without a function that "
      "makes it; give add_reward both",
      spec.plugin, spec.name);
  const auto [there, added] = specs_.emplace(spec.name, spec);
  ARCHON_VALIDATE(
      added,
      "the reward \"{}\" is registered twice, by plugin {} and by plugin {}; remove one "
      "of them",
      spec.name, there->second.plugin, spec.plugin);
}

const RewardSpec& RewardRegistry::find(const std::string& name) const {
  const auto spec = specs_.find(name);
  if (spec != specs_.end()) return spec->second;
  std::vector<std::string> known;
  for (const auto& entry : specs_) known.push_back(entry.first);
  throw InputError(fmt::format(
      "no plugin knows the reward \"{}\"; known: {}; name a file that ends in .so, or a plugin for "
      "it with --plugin FILE or ARCHON_PLUGIN_PATH",
      name, known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", "))));
}

std::vector<const RewardSpec*> RewardRegistry::all() const {
  std::vector<const RewardSpec*> specs;
  for (const auto& entry : specs_) specs.push_back(&entry.second);
  return specs;
}

}  // namespace archon
