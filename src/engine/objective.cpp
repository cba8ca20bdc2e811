#include "archon/engine/objective.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>

#include <utility>

#include "archon/base/error.hpp"
#include "archon/base/trace.hpp"
#include "archon/engine/option_words.hpp"
#include "archon/parallel/collectives.hpp"
#include "archon/parallel/linear.hpp"

namespace archon {
namespace {

/// Labels of the targets alone: no other token's log-probability is computed.
at::Tensor target_labels(const PackedBatch& slice) {
  return at::where(slice.target_mask, slice.labels, kNoLabel);
}

/// The loss of one micro-batch in the making: everything that its parts look at.
struct Terms {
  const LossOptions& options;
  const Model& model;
  const Mesh& mesh;
  const PackedBatch& batch;  // whole stream
  const PackedBatch& slice;  // this cp rank's
  double scale;
  LossStatistics* statistics;

  VocabParallelHead head() const { return vocab_parallel_head(model, mesh, options.temperature); }
  /// Of the whole stream, before the division by what the global batch counts.
  at::Tensor weights() const {
    return token_weights(batch.target_mask, batch.cu_seqlens, options.aggregate, {1, 1},
                         options.length_divisor);
  }
  /// This cp rank's part of [T].
  at::Tensor mine(const at::Tensor& stream) const {
    const int64_t tokens = slice.tokens.size(0);
    return stream.narrow(0, mesh.cp_rank() * tokens, tokens);
  }
};

/// Log-probabilities of the targets of the whole stream, on every cp rank: whole sequences need
/// them. In host memory, as all that losses compute with.
LogProbs target_log_probs(const at::Tensor& hidden, const Terms& terms, bool with_entropy) {
  LogProbs result =
      vocab_parallel_log_probs(differentiable::all_gather(hidden, terms.mesh.tp()), terms.head(),
                               target_labels(terms.slice), with_entropy);
  for (at::Tensor* slice : {&result.log_probs, &result.entropy})
    if (slice->defined()) *slice = differentiable::all_gather(*slice, terms.mesh.cp()).cpu();
  return result;
}

/// The sum of what this rank counts, of a loss that all tp ranks know.
MicroBatchLoss sum_of(const at::Tensor& losses, double scale) {
  const at::Tensor loss = losses.sum().mul(scale).view({1});
  return {loss, loss.item<double>()};
}

MicroBatchLoss sft_loss(const at::Tensor& hidden, const Terms& terms) {
  const at::Tensor weights = terms.mine(terms.weights()).mul(terms.scale).to(at::kFloat);
  const at::Tensor loss = linear_cross_entropy(differentiable::all_gather(hidden, terms.mesh.tp()),
                                               terms.head(), terms.slice.labels, weights);
  return {loss, loss.item<double>()};
}

MicroBatchLoss critic_objective(const at::Tensor& hidden, const Terms& terms) {
  // Each rank has the values of its own tokens: token block cp_rank · tp + tp_rank.
  const int64_t tokens = hidden.size(0);
  const int64_t begin = terms.mesh.model_parallel().rank() * tokens;
  const auto mine = [&](const at::Tensor& x) { return x.narrow(0, begin, tokens); };
  const auto field = [&](const char* name) { return mine(terms.batch.fields.at(name)); };
  const CriticBatch batch{critic_values(terms.model, hidden).cpu(), field("old_values"), field("returns"),
                          mine(terms.batch.target_mask)};
  const CriticLoss result = critic_loss(batch, terms.options.critic);
  if (terms.statistics != nullptr)
    add_critic_statistics(*terms.statistics, batch, result, terms.options.critic);
  const at::Tensor loss = (mine(terms.weights()) * result.loss).sum().mul(terms.scale).view({1});
  return {loss, terms.mesh.tp().all_reduce(loss.item<double>())};
}

MicroBatchLoss policy_gradient_loss(const at::Tensor& hidden, const Terms& terms) {
  const LossOptions& options = terms.options;
  const bool with_entropy = options.entropy_coefficient > 0 || terms.statistics != nullptr;
  const auto [log_probs, entropy] = target_log_probs(hidden, terms, with_entropy);
  const auto& fields = terms.batch.fields;
  const auto field = [&](const char* name) {
    const auto found = fields.find(name);
    return found == fields.end() ? at::Tensor() : found->second;
  };
  const at::Tensor behaviour = field("logprobs"), reference = field("ref_logprobs");
  const at::Tensor proximal =
      options.proximal == Proximal::behaviour ? behaviour : field("prox_logprobs");
  const PolicyBatch batch{log_probs,
                          proximal,
                          behaviour,
                          field("advantages"),
                          terms.batch.target_mask,
                          terms.batch.cu_seqlens};
  const PolicyLoss policy = policy_loss(batch, options.policy);
  if (terms.statistics != nullptr)
    add_policy_statistics(*terms.statistics, batch, policy, options.policy, entropy, reference);

  at::Tensor loss = policy.loss;
  if (options.kl_in_loss())
    loss = loss + options.kl_coefficient *
                      kl_estimate(batch.log_probs, reference, batch.mask, options.kl_estimator);
  if (options.entropy_coefficient > 0) loss = loss - options.entropy_coefficient * entropy;
  return sum_of(terms.mine(loss * terms.weights()), terms.scale);
}

MicroBatchLoss preference_loss(const at::Tensor& hidden, const Terms& terms) {
  const DpoLoss result = dpo_loss(
      {target_log_probs(hidden, terms, /*with_entropy=*/false).log_probs,
       terms.batch.fields.at("ref_logprobs"), terms.batch.target_mask, terms.batch.cu_seqlens},
      terms.options.dpo);
  if (terms.statistics != nullptr) add_dpo_statistics(*terms.statistics, result);
  // A pair's loss belongs to no token in particular: the first cp rank counts it.
  return sum_of(result.loss, terms.mesh.cp_rank() == 0 ? terms.scale : 0.0);
}

MicroBatchLoss loss_of(const at::Tensor& hidden, const Terms& terms) {
  const TraceSpan span("loss");
  switch (terms.options.kind) {
    case LossKind::sft:
      return sft_loss(hidden, terms);
    case LossKind::critic:
      return critic_objective(hidden, terms);
    case LossKind::dpo:
      return preference_loss(hidden, terms);
    default:
      return policy_gradient_loss(hidden, terms);
  }
}

/// What a loss implies about its options.
LossOptions completed(LossOptions options) {
  PolicyLossOptions& policy = options.policy;
  policy.eps_clip_higher = options.eps_clip_higher < 0 ? policy.eps_clip : options.eps_clip_higher;
  if (options.kind == LossKind::gspo) options.policy.sequence_ratio = true;
  if (options.kind == LossKind::sapo) options.policy.surrogate = Surrogate::sapo;
  options.advantages.norm = options.norm_of_rewards();
  options.advantages.kl_coefficient = options.kl_in_reward ? options.kl_coefficient : 0;
  options.advantages.kl_estimator = options.kl_estimator;
  validate(options.policy);
  validate(options.critic);
  validate(options.dpo);
  validate(options.advantages);
  return options;
}

}  // namespace

std::string to_string(LossKind kind) { return word_of(kLossWords, kind); }

bool LossOptions::is_policy_gradient() const {
  return kind == LossKind::grpo || kind == LossKind::ppo || kind == LossKind::gspo ||
         kind == LossKind::sapo;
}

bool LossOptions::uses_values() const { return kind == LossKind::ppo || kind == LossKind::critic; }

RewardNorm LossOptions::norm_of_rewards() const {
  return reward_norm.value_or(uses_values() ? RewardNorm::none : RewardNorm::group);
}

Objective::Objective(LossOptions given) : options(completed(std::move(given))) {}

std::vector<std::string> Objective::fields() const {
  if (options.kind == LossKind::critic) return {"old_values", "returns"};
  if (options.kind == LossKind::dpo) return {"ref_logprobs"};
  if (options.kind == LossKind::sft) return {};
  std::vector<std::string> fields = {"logprobs", "advantages"};
  if (options.proximal != Proximal::behaviour) fields.push_back("prox_logprobs");
  if (options.kl_in_loss()) fields.push_back("ref_logprobs");
  return fields;
}

void Objective::validate(const DecoderConfig& config) const {
  if (options.kind == LossKind::critic)
    ARCHON_VALIDATE(config.critic,
                    "--loss critic needs a model with a score head (architecture "
                    "*ForTokenClassification); this one predicts tokens");
  else
    ARCHON_VALIDATE(!config.critic,
                    "this model is a critic (it has a score head and predicts no tokens); train it "
                    "with --loss critic, or ask `forward` for --what values");
}

bool Objective::is_token_mean() const {
  return options.kind != LossKind::dpo && options.aggregate == Aggregate::token_mean;
}

double Objective::size(const PackedBatch& batch) const {
  if (options.kind == LossKind::dpo) return static_cast<double>(batch.sequences.size() / unit());
  const BatchCounts counts = count_batch(batch.target_mask, batch.cu_seqlens);
  return static_cast<double>(is_token_mean() ? counts.targets : counts.sequences);
}

MicroBatchLoss Objective::operator()(Model& model, const Mesh& mesh, const PackedBatch& batch,
                                     double scale, ActivationObserver* observer,
                                     LossStatistics* statistics) const {
  const TraceSpan span("forward");
  const PackedBatch slice = ulysses_slice_inputs(batch, mesh.cp_rank(), mesh.shape().cp);
  const Terms terms{options, model, mesh, batch, slice, scale, statistics};
  MicroBatchLoss result;
  const auto tail = [&](const at::Tensor& hidden) {
    result = loss_of(hidden, terms);
    return result.loss;
  };
  result.loss = model.forward(model_input(slice), tail, observer);
  return result;
}

ModelInput model_input(const PackedBatch& slice) {
  return {slice.tokens, slice.positions, slice.cu_seqlens, slice.max_seqlen};
}

VocabParallelHead vocab_parallel_head(const Model& model, const Mesh& mesh, double temperature) {
  return {model.head().value(), model.config().vocab_size, mesh.tp(), temperature};
}

at::Tensor critic_values(const Model& model, const at::Tensor& hidden) {
  return archon::linear(hidden, model.head().value()).view({-1}).to(at::kFloat);
}

}  // namespace archon
