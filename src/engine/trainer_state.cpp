#include "archon/engine/trainer_state.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "archon/base/error.hpp"
#include "archon/base/log.hpp"
#include "archon/base/version.hpp"
#include "archon/engine/option_words.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace {

// What decides about the steps to come, apart from schedule and length, which users change.
constexpr std::array kDecisive = {"batch-sequences", "shuffle", "seed", "dtype", "loss"};

const char* on_or_off(bool on) { return on ? "on" : "off"; }

/// What the steps to come depend on, named like the options, in their words.
Json loss_configuration(const LossOptions& loss) {
  const PolicyLossOptions& policy = loss.policy;
  const AdvantageOptions& advantages = loss.advantages;
  const RewardOptions& reward = advantages.reward;
  return {{"aggregate", word_of(kAggregateWords, loss.aggregate)},
          {"aggregate-length", loss.length_divisor},
          {"temperature", loss.temperature},
          {"eps-clip", policy.eps_clip},
          {"eps-clip-higher", loss.eps_clip_higher < 0 ? Json("") : Json(loss.eps_clip_higher)},
          {"dual-clip", policy.dual_clip},
          {"behaviour-weight-cap", policy.behaviour_weight_cap},
          {"ratio", word_of(kRatioWords, policy.sequence_ratio)},
          {"sapo-tau-positive", policy.sapo_tau_positive},
          {"sapo-tau-negative", policy.sapo_tau_negative},
          {"proximal", word_of(kProximalWords, loss.proximal)},
          {"entropy-coefficient", loss.entropy_coefficient},
          {"kl-coefficient", loss.kl_coefficient},
          {"kl-estimator", word_of(kKlEstimatorWords, loss.kl_estimator)},
          {"kl-in", word_of(kKlInWords, loss.kl_in_reward)},
          {"reference", loss.reference},
          {"critic", loss.critic_model},
          {"reward-norm", word_of(kRewardNormWords, loss.reward_norm)},
          {"reward-std", on_or_off(advantages.divide_by_std)},
          {"reward-bias", reward.bias},
          {"reward-scale", reward.scale},
          {"reward-clip", reward.clip},
          {"overlong-length", reward.overlong_length},
          {"overlong-buffer", reward.overlong_buffer},
          {"overlong-penalty", reward.overlong_penalty},
          {"gamma", advantages.gamma},
          {"gae-lambda", advantages.lambda},
          {"whiten-advantages", word_of(kWhiteningWords, advantages.whitening)},
          {"value-eps-clip", loss.critic.eps_clip},
          {"value-error", word_of(kValueErrorWords, loss.critic.error)},
          {"huber-delta", loss.critic.huber_delta},
          {"dpo-beta", loss.dpo.beta},
          {"dpo-label-smoothing", loss.dpo.label_smoothing}};
}

/// Named like the options.
Json configuration(const TrainOptions& options, int64_t sequences) {
  return {{"model", options.run.model},
          {"data", options.run.data},
          {"data-sequences", sequences},
          {"batch-sequences", options.batch_sequences},
          {"shuffle", on_or_off(options.shuffle)},
          {"seed", options.run.seed},
          {"micro-batch-tokens", options.run.micro_batch_tokens},
          {"dtype", options.run.dtype == at::kFloat ? "float32" : "bfloat16"},
          {"loss", to_string(options.loss.kind)},
          {"loss-options", loss_configuration(options.loss)},
          {"optimizer", word_of(kOptimizerWords, options.optimizer)},
          {"weight-decay", options.adamw.weight_decay},
          {"clip-grad-norm", options.clip_grad_norm},
          {"lr", options.schedule.lr},
          {"lr-schedule", word_of(kLrScheduleWords, options.schedule.shape)},
          {"warmup-steps", options.schedule.warmup_steps},
          {"min-lr-ratio", options.schedule.min_ratio},
          {"steps", options.steps}};
}

Json to_json(const DataPosition& data) {
  return {{"consumed", data.consumed}, {"file", data.file}, {"began", data.began}};
}

Json to_json(const MeshShape& mesh) { return {{"dp", mesh.dp}, {"cp", mesh.cp}, {"tp", mesh.tp}}; }

/// The folder that --resume names, if it names one.
std::string resume_folder(const std::string& resume) {
  std::error_code ignored;
  if (resume == "auto" || resume == "none") return "";
  const std::string real = std::filesystem::weakly_canonical(resume, ignored).string();
  return is_utf8(real) ? real : resume;  // what a checkpoint says is JSON
}

std::string to_hex(const uint8_t* bytes, int64_t count) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

at::Tensor from_hex(const std::string& text) {
  const at::Tensor bytes = at::empty({static_cast<int64_t>(text.size() / 2)}, at::kByte);
  for (int64_t i = 0; i < bytes.numel(); ++i)
    bytes.mutable_data_ptr<uint8_t>()[i] =
        static_cast<uint8_t>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return bytes;
}

/// Of each rank's default generator; a single one where all are alike.
Json random_states(const Communicator& world) {
  const at::Tensor mine = at::detail::getDefaultCPUGenerator().get_state();
  const int64_t bytes = mine.numel();
  const at::Tensor all = at::empty({world.size(), bytes}, at::kByte);
  world.all_gather(all, mine.view({1, bytes}));
  Json states = Json::array();
  for (int64_t rank = 0; rank < world.size(); ++rank)
    states.push_back(to_hex(all.const_data_ptr<uint8_t>() + rank * bytes, bytes));
  if (std::all_of(states.begin(), states.end(), [&](const Json& s) { return s == states[0]; }))
    return Json::array({states[0]});
  return states;
}

void restore_random_state(const Json& states, const Communicator& world) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const Json& mine = states.at(states.size() == 1 ? 0 : static_cast<std::size_t>(world.rank()));
  generator.set_state(from_hex(mine.get<std::string>()));
}

std::string text_of(const Json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  return text.empty() ? "not given" : text;
}

/// Both read as the value of an option, "--loss was ...", or as a property, "--data had ...".
void warn_of_change(const std::string& was, const std::string& is,
                    const char* how = "but not as it would have") {
  log::warning("{} when the checkpoint was saved and {} now: the run goes on, {}", was, is, how);
}

void compare(const std::string& name, const Json& was, const Json& now) {
  // What an older Archon did not say was not asked for then.
  if (was.is_null() || was == now) return;
  warn_of_change(fmt::format("--{} was {}", name, text_of(was)),
                 fmt::format("is {}", text_of(now)));
}

/// A folder has no number of sequences, and its position tells of its files.
void compare_data(const Json& before, const Json& now) {
  const int64_t sequences_now = now.at("data-sequences");
  const int64_t sequences = before.value("data-sequences", sequences_now);
  const std::string path_now = now.at("data"), path = before.value("data", path_now);
  const bool file = sequences > 0, file_now = sequences_now > 0;
  std::error_code ignored;
  if (file && file_now && sequences != sequences_now)
    warn_of_change(fmt::format("--data had {} sequences", sequences),
                   fmt::format("has {}", sequences_now));
  else if ((file || file_now) && path != path_now &&
           !std::filesystem::equivalent(path, path_now, ignored))
    warn_of_change(fmt::format("--data was {}", path), fmt::format("is {}", path_now),
                   "as it would have only if both hold the same");
}

void compare(const Json& before, const Json& now) {
  for (const char* const name : kDecisive) compare(name, before.value(name, Json()), now.at(name));
  compare_data(before, now);
  const Json loss = before.value("loss-options", Json::object());
  for (const auto& [name, value] : now.at("loss-options").items())
    compare(name, loss.value(name, Json()), value);
}

}  // namespace

Json trainer_state(const TrainerPosition& position, const DataPosition& data,
                   const TrainOptions& options, int64_t sequences, const Mesh& mesh) {
  return {{"step", position.step},
          {"skipped_in_a_row", position.skipped_in_a_row},
          {"data", to_json(data)},
          {"configuration", configuration(options, sequences)},
          {"resume", resume_folder(options.resume)},
          {"mesh", to_json(mesh.shape())},
          {"archon_version", version()},
          {"torch_version", TORCH_VERSION},
          {"random", random_states(mesh.world())}};
}

bool began_from(const Json& state, const std::string& resume) {
  return state.value("resume", "") == resume_folder(resume);
}

DataPosition saved_data_position(const Json& state) {
  if (!state.contains("data")) return {};
  const Json& data = state.at("data");
  return {data.at("consumed").get<std::vector<std::string>>(), data.at("file").get<std::string>(),
          data.at("began").get<int64_t>()};
}

TrainerPosition restore_trainer_state(const Json& state, const TrainOptions& options,
                                      int64_t sequences, const Mesh& mesh) {
  for (const char* const name : {"step", "skipped_in_a_row", "configuration", "mesh", "random"})
    ARCHON_VALIDATE(state.contains(name),
                    "/trainer/state of the checkpoint has no {}, which a run needs to go on; "
                    "docs/file-formats.md says what it is",
                    name);
  compare(state.at("configuration"), configuration(options, sequences));
  if (state.at("mesh") == to_json(mesh.shape()))
    restore_random_state(state.at("random"), mesh.world());
  return {state.at("step").get<int64_t>(), state.at("skipped_in_a_row").get<int64_t>()};
}

}  // namespace archon
