#include "rollout_advantages.hpp"

#include <ATen/ops/cat.h>

#include "archon/base/error.hpp"
#include "archon/data/dataset.hpp"

namespace archon {
namespace {

bool needs_groups(const AdvantageOptions& options) {
  return options.norm == RewardNorm::group || options.norm == RewardNorm::leave_one_out;
}

std::vector<int64_t> read_groups(const h5::File& file) {
  ARCHON_VALIDATE(file.has("/group_ids"),
                  "{} has no /group_ids, which advantages relative to a group need; add them, or "
                  "give --reward-norm batch or none",
                  file.path());
  const at::Tensor groups = file.read("/group_ids", at::kLong);
  const int64_t* begin = groups.const_data_ptr<int64_t>();
  return {begin, begin + groups.numel()};
}

/// bool [T]; every sequence is read, and so checked, for it.
at::Tensor read_mask(const TokenDataset& dataset) {
  std::vector<at::Tensor> masks;
  for (int64_t i = 0; i < dataset.size(); ++i) masks.push_back(dataset.read(i).loss_mask);
  return at::cat(masks);
}

}  // namespace

std::vector<std::string> advantage_inputs(const LossOptions& loss) {
  std::vector<std::string> fields;
  if (loss.uses_values()) fields.emplace_back("old_values");
  if (loss.advantages.kl_coefficient > 0) {
    fields.emplace_back("logprobs");
    fields.emplace_back("ref_logprobs");
  }
  return fields;
}

Rollouts read_rollouts(const std::string& data, int64_t vocab_size, const Objective& objective) {
  const AdvantageOptions& options = objective.options.advantages;
  std::vector<std::string> fields = advantage_inputs(objective.options);
  const h5::File file = h5::File::open(data);
  std::erase_if(fields, [&](const std::string& field) { return !file.has("/" + field); });
  const TokenDataset dataset(data, vocab_size, fields);
  Rollouts rollouts;
  rollouts.mask = read_mask(dataset);
  rollouts.cu_seqlens = dataset.cu_seqlens();
  rollouts.rewards = dataset.rewards();
  ARCHON_VALIDATE(rollouts.rewards.defined(),
                  "{} has neither /advantages (or /returns) nor /rewards to compute them from; add "
                  "one of them, see docs/file-formats.md",
                  data);
  if (needs_groups(options)) rollouts.group_ids = read_groups(file);
  // Groups that are too small are refused now, not after the model's passes.
  normalise_rewards(rollouts.rewards, rollouts.group_ids, options.norm, options.divide_by_std);
  return rollouts;
}

void write_advantages(Rollouts rollouts, const std::string& data, h5::File& prepared,
                      const Objective& objective) {
  const LossOptions& loss = objective.options;
  const h5::File file = h5::File::open(data);
  const auto field = [&](const char* name) {
    const std::string dataset = std::string("/") + name;
    return (prepared.has(dataset) ? prepared : file).read(dataset, at::kFloat);
  };
  if (loss.advantages.kl_coefficient > 0) {
    rollouts.log_probs = field("logprobs");
    rollouts.reference_log_probs = field("ref_logprobs");
  }
  if (loss.uses_values()) rollouts.values = field("old_values");
  const Advantages result = compute_advantages(rollouts, loss.advantages);
  prepared.write("/advantages", result.advantages.to(at::kFloat));
  if (loss.uses_values()) prepared.write("/returns", result.returns.to(at::kFloat));
}

}  // namespace archon
