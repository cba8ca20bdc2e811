#include "archon/base/error.hpp"
#include "archon/engine/objective.hpp"
#include "archon/engine/option_words.hpp"
#include "options.hpp"

namespace archon::cli {
namespace {

void add_loss_group(OptionSet& options, LossOptions& loss) {
  options.group("Loss");
  options.add("loss", choice(loss.kind, kLossWords),
              "sft: negative log-likelihood of the targets; grpo: clipped policy gradient, "
              "advantages relative to a group; ppo: the same with advantages from a critic's "
              "values; gspo: one ratio a sequence; sapo: a soft gate in place of the clip; dpo: "
              "preferences, sequence 2i over 2i+1; critic: the value loss of a model with a score "
              "head");
  options.add(
      "aggregate", choice(loss.aggregate, kAggregateWords),
      "mean over all targets; mean over sequences of the mean over their targets; mean over "
      "sequences of the sum over their targets, divided by --aggregate-length");
  options.add("aggregate-length", number(loss.length_divisor, kPositive),
              "sequence-sum: what a sequence's sum is divided by, as a budget of tokens");
  options.add("temperature", number(loss.temperature, kTemperature),
              "logits are divided by it: that of sampling, for policy losses");
}

void add_policy_group(OptionSet& options, LossOptions& loss) {
  PolicyLossOptions& policy = loss.policy;
  options.group("Policy losses: grpo, ppo, gspo, sapo");
  options.add("eps-clip", number(policy.eps_clip, kFraction), "ratios below 1 - X are clipped");
  options.add("eps-clip-higher", number(loss.eps_clip_higher, kNotNegative),
              "ratios above 1 + X are clipped; as --eps-clip where it is not given");
  options.add("dual-clip", number(policy.dual_clip, kNotNegative),
              "where the advantage is negative, no loss above X times its size; 0 = off");
  options.add("behaviour-weight-cap", number(policy.behaviour_weight_cap, kNotNegative),
              "tokens drop out whose probability rose by more than this factor from the behaviour "
              "to the proximal policy; 0 = off");
  options.add("ratio", choice(policy.sequence_ratio, kRatioWords),
              "grpo, ppo: one ratio a token, or one a sequence as in gspo");
  options.add("sapo-tau-positive", number(policy.sapo_tau_positive, kPositive),
              "sapo: steepness of the gate where the advantage is positive");
  options.add("sapo-tau-negative", number(policy.sapo_tau_negative, kPositive),
              "sapo: steepness of the gate where it is negative");
  options.add("proximal", choice(loss.proximal, kProximalWords),
              "the policy that ratios are taken to: prox_logprobs of the file; recomputed from the "
              "weights when the file's turn comes; the behaviour policy; auto = file if it has "
              "them, else recompute");
  options.add("entropy-coefficient", number(loss.entropy_coefficient, kNotNegative),
              "X times the mean entropy is taken off the loss; 0 = off");
  options.add("kl-coefficient", number(loss.kl_coefficient, kNotNegative),
              "X times the KL divergence from the reference policy is added; 0 = off");
  options.add("kl-estimator", choice(loss.kl_estimator, kKlEstimatorWords),
              "x, x^2/2 or exp(-x)-1+x of the log-ratio x of policy and reference");
  options.add("kl-in", choice(loss.kl_in_reward, kKlInWords),
              "add it to the loss, or take it off the rewards");
  options.add("reference", text(loss.reference, "DIR"),
              "model of the reference policy (also for dpo), where the file has no ref_logprobs");
}

void add_advantage_group(OptionSet& options, LossOptions& loss) {
  AdvantageOptions& advantages = loss.advantages;
  RewardOptions& reward = advantages.reward;
  options.group("Advantages from rewards, where the file has none");
  options.add("reward-norm", choice(loss.reward_norm, kRewardNormWords),
              "subtract from each reward the mean of its group, of the file, or of the others of "
              "its group; auto = group, none for ppo and critic");
  options.add("reward-std", on_off(advantages.divide_by_std),
              "divide by the standard deviation of the group, or of the file");
  options.add("reward-bias", number(reward.bias, {}), "added to every reward first");
  options.add("reward-scale", number(reward.scale, {}), "every reward is multiplied by it then");
  options.add("reward-clip", number(reward.clip, kNotNegative),
              "rewards lie within -X and X after that; 0 = off");
  options.add("overlong-length", integer<int64_t>(reward.overlong_length, 0),
              "longest answer in tokens, punished in full from there; 0 = off");
  options.add("overlong-buffer", integer<int64_t>(reward.overlong_buffer, 0),
              "tokens before --overlong-length over which the punishment grows; needed with it");
  options.add("overlong-penalty", number(reward.overlong_penalty, kNotNegative),
              "punishment of the longest answers");
  options.add("gamma", number(advantages.gamma, kFraction), "discount of later rewards");
  options.add("gae-lambda", number(advantages.lambda, kFraction),
              "generalised advantage estimation: 0 = one step, 1 = the whole answer");
  options.add("whiten-advantages", choice(advantages.whitening, kWhiteningWords),
              "divide the advantages of all targets of a file by their standard deviation; on = "
              "subtract their mean, too");
  options.add("critic", text(loss.critic_model, "DIR"),
              "ppo: model of the values, where the file has no old_values");
}

void add_other_losses_group(OptionSet& options, LossOptions& loss) {
  options.group("Critic and preferences");
  CriticLossOptions& critic = loss.critic;
  options.add("value-eps-clip", number(critic.eps_clip, kNotNegative),
              "critic: clip values to this far around old_values; 0 = off");
  options.add(
      "value-error", choice(critic.error, kValueErrorWords),
      "critic: half the squared error, or linear beyond --huber-delta");
  options.add("huber-delta", number(critic.huber_delta, kPositive),
              "critic, huber: error from which the loss is linear");
  options.add("dpo-beta", number(loss.dpo.beta, kPositive),
              "dpo: how dear it is to leave the reference policy");
  options.add("dpo-label-smoothing", number(loss.dpo.label_smoothing, kFraction),
              "dpo: probability that a preference is the wrong way round, below 0.5");
}

/// An option that some losses alone look at.
struct Use {
  std::string given;  ///< "--eps-clip 0.3"; "" = it has its default
  bool used;
  const char* losses;
};

std::string given(const char* option, double value, double untouched) {
  return value == untouched ? "" : fmt::format("--{} {:g}", option, value);
}

std::string given(const char* option, const std::string& value) {
  return value.empty() ? "" : fmt::format("--{} {}", option, value);
}

std::string given(const char* option, bool differs) {
  return differs ? fmt::format("--{}", option) : "";
}

std::vector<Use> policy_uses(const LossOptions& loss, const LossOptions& untouched) {
  constexpr const char* kClipped = "grpo, ppo or gspo";
  constexpr const char* kPolicy = "grpo, ppo, gspo or sapo";
  constexpr const char* kDivergence = "any but sft and dpo, with --kl-coefficient above 0";
  const PolicyLossOptions &policy = loss.policy, &usual = untouched.policy;
  const bool any = loss.is_policy_gradient(), sapo = loss.kind == LossKind::sapo;
  const bool clipped = any && !sapo, critic = loss.kind == LossKind::critic;
  const bool divergence = loss.kl_coefficient > 0;
  return {
      {given("eps-clip", policy.eps_clip, usual.eps_clip), clipped, kClipped},
      {given("eps-clip-higher", loss.eps_clip_higher, untouched.eps_clip_higher), clipped,
       kClipped},
      {given("dual-clip", policy.dual_clip, 0), clipped, kClipped},
      {given("behaviour-weight-cap", policy.behaviour_weight_cap, 0), any, kPolicy},
      {given("ratio", policy.sequence_ratio), clipped, kClipped},
      {given("sapo-tau-positive", policy.sapo_tau_positive, usual.sapo_tau_positive), sapo, "sapo"},
      {given("sapo-tau-negative", policy.sapo_tau_negative, usual.sapo_tau_negative), sapo, "sapo"},
      {given("proximal", loss.proximal != untouched.proximal), any, kPolicy},
      {given("entropy-coefficient", loss.entropy_coefficient, 0), any, kPolicy},
      {given("kl-coefficient", loss.kl_coefficient, 0), any || (critic && loss.kl_in_reward),
       "grpo, ppo, gspo or sapo, or critic with --kl-in reward"},
      {given("kl-estimator", loss.kl_estimator != untouched.kl_estimator), divergence, kDivergence},
      {given("kl-in", loss.kl_in_reward != untouched.kl_in_reward), divergence, kDivergence},
      {given("reference", loss.reference), divergence || loss.kind == LossKind::dpo,
       "dpo, or with --kl-coefficient above 0"},
      {given("critic", loss.critic_model), loss.kind == LossKind::ppo, "ppo"}};
}

/// A critic may be given all that its actor is given, though whitening changes no return.
std::vector<Use> advantage_uses(const LossOptions& loss, const LossOptions& untouched) {
  constexpr const char* kRewarded = "grpo, ppo, gspo, sapo or critic";
  constexpr const char* kOverlong = "any but sft and dpo, with --overlong-length above 0";
  const AdvantageOptions &advantages = loss.advantages, &usual = untouched.advantages;
  const RewardOptions &reward = advantages.reward, &plain = usual.reward;
  const bool rewarded = loss.is_policy_gradient() || loss.kind == LossKind::critic;
  const bool overlong = rewarded && reward.overlong_length > 0;
  const bool normed = loss.norm_of_rewards() != RewardNorm::none;
  return {
      {given("reward-norm", loss.reward_norm.has_value()), rewarded, kRewarded},
      {given("reward-std", advantages.divide_by_std != usual.divide_by_std), rewarded && normed,
       "grpo, gspo or sapo, or with a --reward-norm other than none"},
      {given("reward-bias", reward.bias, plain.bias), rewarded, kRewarded},
      {given("reward-scale", reward.scale, plain.scale), rewarded, kRewarded},
      {given("reward-clip", reward.clip, plain.clip), rewarded, kRewarded},
      {given("overlong-length", reward.overlong_length != 0), rewarded, kRewarded},
      {given("overlong-buffer", reward.overlong_buffer != 0), overlong, kOverlong},
      {given("overlong-penalty", reward.overlong_penalty, plain.overlong_penalty), overlong,
       kOverlong},
      {given("gamma", advantages.gamma, usual.gamma), rewarded, kRewarded},
      {given("gae-lambda", advantages.lambda, usual.lambda), rewarded, kRewarded},
      {given("whiten-advantages", advantages.whitening != usual.whitening), rewarded, kRewarded}};
}

std::vector<Use> other_uses(const LossOptions& loss, const LossOptions& untouched) {
  const bool critic = loss.kind == LossKind::critic, dpo = loss.kind == LossKind::dpo;
  const bool huber = critic && loss.critic.error == ValueError::huber;
  return {{given("value-eps-clip", loss.critic.eps_clip, 0), critic, "critic"},
          {given("value-error", loss.critic.error != untouched.critic.error), critic, "critic"},
          {given("huber-delta", loss.critic.huber_delta, untouched.critic.huber_delta), huber,
           "critic, with --value-error huber"},
          {given("dpo-beta", loss.dpo.beta, untouched.dpo.beta), dpo, "dpo"},
          {given("dpo-label-smoothing", loss.dpo.label_smoothing, 0), dpo, "dpo"},
          {given("aggregate", loss.aggregate != untouched.aggregate), !dpo,
           "any other: dpo counts pairs"},
          {given("aggregate-length", loss.length_divisor, untouched.length_divisor),
           loss.aggregate == Aggregate::sequence_sum, "any but dpo, with --aggregate sequence-sum"},
          {given("temperature", loss.temperature, 1),
           !critic || (loss.kl_in_reward && loss.kl_coefficient > 0),
           "any but critic, or critic with --kl-in reward and --kl-coefficient above 0"}};
}

}  // namespace

void add_loss_options(OptionSet& options, LossOptions& loss) {
  add_loss_group(options, loss);
  add_policy_group(options, loss);
  add_advantage_group(options, loss);
  add_other_losses_group(options, loss);
}

void check_loss_options(const LossOptions& loss) {
  const LossOptions untouched;
  for (const auto& uses :
       {policy_uses(loss, untouched), advantage_uses(loss, untouched), other_uses(loss, untouched)})
    for (const Use& use : uses)
      ARCHON_VALIDATE(use.given.empty() || use.used,
                      "{} does not go with --loss {}, which has no use for it; leave it out, or "
                      "train with --loss {}",
                      use.given, to_string(loss.kind), use.losses);
  Objective{loss};  // what the losses themselves refuse
}

}  // namespace archon::cli
