#include "rollout_advantages.hpp"

#include <ATen/ops/ones.h>

#include "archon/base/error.hpp"
#include "archon/data/dataset.hpp"

namespace archon {
namespace {

bool uses_values(const LossOptions& loss) {
  return loss.kind == LossKind::ppo || loss.kind == LossKind::critic;
}

bool needs_groups(const AdvantageOptions& options) {
  return options.norm == RewardNorm::group || options.norm == RewardNorm::leave_one_out;
}

std::vector<int64_t> integers(const h5::File& file, const std::string& dataset) {
  const at::Tensor values = file.read(dataset, at::kLong);
  const int64_t* begin = values.const_data_ptr<int64_t>();
  return {begin, begin + values.numel()};
}

/// bool [T]; every token but the first of each sequence where the file has no mask.
at::Tensor read_mask(const h5::File& file, const std::vector<int64_t>& cu_seqlens) {
  if (file.has("/loss_mask")) return file.read("/loss_mask", at::kLong).to(at::kBool);
  at::Tensor mask = at::ones({cu_seqlens.back()}, at::kBool);
  for (std::size_t i = 0; i + 1 < cu_seqlens.size(); ++i)
    mask.mutable_data_ptr<bool>()[cu_seqlens[i]] = false;
  return mask;
}

/// Finite: a TokenDataset looked.
at::Tensor read_rewards(const h5::File& file) {
  ARCHON_VALIDATE(file.has("/rewards"),
                  "{} has neither /advantages (or /returns) nor /rewards to compute them from; add "
                  "one of them, see docs/file-formats.md",
                  file.path());
  return file.read("/rewards", at::kDouble);
}

/// All that does not come from a model.
Rollouts read_rollouts(const h5::File& file, const AdvantageOptions& options) {
  Rollouts rollouts;
  rollouts.rewards = read_rewards(file);
  if (needs_groups(options)) {
    ARCHON_VALIDATE(file.has("/group_ids"),
                    "{} has no /group_ids, which advantages relative to a group need; add them, or "
                    "give --reward-norm batch or none",
                    file.path());
    rollouts.group_ids = integers(file, "/group_ids");
  }
  rollouts.cu_seqlens = integers(file, "/cu_seqlens");
  rollouts.mask = read_mask(file, rollouts.cu_seqlens);
  return rollouts;
}

}  // namespace

std::vector<std::string> advantage_inputs(const LossOptions& loss) {
  std::vector<std::string> fields;
  if (uses_values(loss)) fields.emplace_back("old_values");
  if (loss.advantages.kl_coefficient > 0) {
    fields.emplace_back("logprobs");
    fields.emplace_back("ref_logprobs");
  }
  return fields;
}

void check_rewards(const std::string& data, int64_t vocab_size, const Objective& objective) {
  const AdvantageOptions& options = objective.options.advantages;
  const h5::File file = h5::File::open(data);
  std::vector<std::string> fields = advantage_inputs(objective.options);
  std::erase_if(fields, [&](const std::string& field) { return !file.has("/" + field); });
  TokenDataset(data, vocab_size, fields).check_all();
  const Rollouts rollouts = read_rollouts(file, options);
  normalise_rewards(rollouts.rewards, rollouts.group_ids, options.norm, options.divide_by_std);
}

void write_advantages(const std::string& data, h5::File& prepared, const Objective& objective) {
  const LossOptions& loss = objective.options;
  const h5::File file = h5::File::open(data);
  const auto field = [&](const char* name) {
    const std::string dataset = std::string("/") + name;
    return (prepared.has(dataset) ? prepared : file).read(dataset, at::kFloat);
  };
  Rollouts rollouts = read_rollouts(file, loss.advantages);
  if (loss.advantages.kl_coefficient > 0) {
    rollouts.log_probs = field("logprobs");
    rollouts.reference_log_probs = field("ref_logprobs");
  }
  if (uses_values(loss)) rollouts.values = field("old_values");
  const Advantages result = compute_advantages(rollouts, loss.advantages);
  prepared.write("/advantages", result.advantages.to(at::kFloat));
  if (uses_values(loss)) prepared.write("/returns", result.returns.to(at::kFloat));
}

}  // namespace archon
