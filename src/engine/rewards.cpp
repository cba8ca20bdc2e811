#include "archon/engine/rewards.hpp"

#include <ATen/ops/tensor.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <ostream>
#include <set>

#include "archon/base/error.hpp"
#include "archon/data/dataset.hpp"
#include "archon/io/files.hpp"
#include "archon/io/json.hpp"
#include "archon/io/new_hdf5_file.hpp"
#include "archon/model/plugin_loader.hpp"
#include "reward_program.hpp"

namespace archon {
namespace {

/// The one reward that the plugin in `file` brings.
const RewardSpec& reward_of_plugin(const std::string& file) {
  const std::string path = load_plugin(file).file;
  std::vector<const RewardSpec*> found;
  std::vector<std::string> names;
  for (const RewardSpec* spec : RewardRegistry::instance().all()) {
    if (spec->plugin != path) continue;
    found.push_back(spec);
    names.push_back(spec->name);
  }
  ARCHON_VALIDATE(
      !found.empty(),
      "the plugin {} brings no reward function (it is one of model architectures); name "
      "one that calls registry.add_reward",
      path);
  ARCHON_VALIDATE(
      found.size() == 1,
      "the plugin {} brings several rewards: {}; give it with --plugin, and one of these "
      "names with --reward",
      path, fmt::join(names, ", "));
  return *found.front();
}

std::vector<float> call_function(const std::string& name, std::span<const RolloutView> rollouts) {
  const RewardSpec& spec =
      name.ends_with(".so") ? reward_of_plugin(name) : RewardRegistry::instance().find(name);
  const auto function = spec.make();
  std::vector<float> rewards;
  for (std::size_t index = 0; index < rollouts.size(); ++index) {
    const double reward = (*function)(rollouts[index]);
    rewards.push_back(static_cast<float>(reward));
    ARCHON_VALIDATE(std::isfinite(rewards.back()),
                    "the reward {} of {} gave {} for rollout {} of group {}; it must be finite, as "
                    "float32 too",
                    spec.name, spec.plugin, reward, index, rollouts[index].group);
  }
  return rewards;
}

/// The rollouts of a token dataset, held in memory.
class RolloutFile {
 public:
  explicit RolloutFile(const std::string& path) {
    const TokenDataset dataset(path, std::numeric_limits<int64_t>::max());
    const h5::File& file = dataset.file();
    for (const char* name : {"/loss_mask", "/group_ids"})
      ARCHON_VALIDATE(file.has(name),
                      "{} has no dataset {}; rollouts need it (docs/file-formats.md)", path, name);
    const at::Tensor groups = file.read("/group_ids", at::kLong);
    for (int64_t i = 0; i < dataset.size(); ++i) {
      sequences_.push_back(dataset.read(i));
      rollouts_.push_back(view(sequences_.back(), groups.const_data_ptr<int64_t>()[i]));
    }
  }

  std::span<const RolloutView> rollouts() const { return rollouts_; }

 private:
  static RolloutView view(const Sequence& sequence, int64_t group) {
    const std::span tokens(sequence.tokens.const_data_ptr<int64_t>(),
                           static_cast<std::size_t>(sequence.length()));
    const bool* mask = sequence.loss_mask.const_data_ptr<bool>();
    const auto prompt =
        static_cast<std::size_t>(std::find(mask, mask + tokens.size(), true) - mask);
    return {group, tokens.first(prompt), tokens.subspan(prompt)};
  }

  std::vector<Sequence> sequences_;
  std::vector<RolloutView> rollouts_;
};

void write_rewards(const std::string& source, std::vector<float> rewards,
                   const std::string& output) {
  h5::NewFile copy = h5::NewFile::copy_of(source, output);
  if (copy.file().has("/rewards")) copy.file().remove("/rewards");
  copy.file().write("/rewards", at::tensor(rewards));
  copy.publish();
}

}  // namespace

std::vector<float> compute_rewards(std::span<const RolloutView> rollouts,
                                   const RewardSource& source) {
  return source.command.empty()
             ? call_function(source.function, rollouts)
             : ask_reward_program(source.command, source.silence_timeout, rollouts);
}

void run_reward(const std::string& file, const RewardSource& source, const std::string& output,
                std::ostream& json_out) {
  validate_new_file(output);  // before the work
  const RolloutFile input(file);
  const std::vector<float> rewards = compute_rewards(input.rollouts(), source);
  write_rewards(file, rewards, output);

  std::set<int64_t> groups;
  for (const RolloutView& rollout : input.rollouts()) groups.insert(rollout.group);
  const double sum = std::accumulate(rewards.begin(), rewards.end(), 0.0);
  json_out << Json{{"rollouts", rewards.size()},
                   {"groups", groups.size()},
                   {"mean", sum / static_cast<double>(rewards.size())}}
                  .dump()
           << '\n';
}

}  // namespace archon
