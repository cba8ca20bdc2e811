#include "archon/engine/objective.hpp"

#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>

#include "archon/base/error.hpp"
#include "archon/base/trace.hpp"
#include "archon/loss/critic.hpp"
#include "archon/parallel/collectives.hpp"
#include "archon/parallel/linear.hpp"

namespace archon {
namespace {

MicroBatchLoss sft_loss(const at::Tensor& hidden, const Model& model, const Mesh& mesh,
                        const PackedBatch& slice, double scale) {
  const TraceSpan span("loss");
  const at::Tensor weights = slice.target_mask.to(at::kFloat).mul(scale);
  const at::Tensor loss =
      linear_cross_entropy(differentiable::all_gather(hidden, mesh.tp()),
                           vocab_parallel_head(model, mesh), slice.labels, weights);
  return {loss, loss.item<double>()};
}

MicroBatchLoss critic_loss(const at::Tensor& hidden, const Model& model, const Mesh& mesh,
                           const PackedBatch& slice, double scale, double eps_clip) {
  const TraceSpan span("loss");
  const int64_t tokens = hidden.size(0);
  const auto mine = [&](const at::Tensor& x) {
    return x.narrow(0, mesh.tp_rank() * tokens, tokens);
  };
  const CriticBatch batch{critic_values(model, hidden), mine(slice.fields.at("old_values")),
                          mine(slice.fields.at("returns")), mine(slice.target_mask)};
  const at::Tensor loss =
      archon::critic_loss(batch, {.eps_clip = eps_clip}).loss.sum().mul(scale).view({1});
  return {loss, mesh.tp().all_reduce(loss.item<double>())};
}

/// Ratios of whole sequences need the log-probabilities of the whole stream; each cp rank's loss is
/// that of its own tokens.
MicroBatchLoss policy_gradient_loss(const at::Tensor& hidden, const Model& model, const Mesh& mesh,
                                    const PackedBatch& batch, const PackedBatch& slice,
                                    double scale, const Objective& objective) {
  const TraceSpan span("loss");
  const at::Tensor mine = vocab_parallel_log_probs(differentiable::all_gather(hidden, mesh.tp()),
                                                   vocab_parallel_head(model, mesh), slice.labels)
                              .log_probs;
  const at::Tensor& behaviour = batch.fields.at("logprobs");
  const PolicyBatch policy_batch{
      differentiable::all_gather(mine, mesh.cp()),
      objective.proximal_is_behaviour ? behaviour : batch.fields.at("prox_logprobs"),
      behaviour,
      batch.fields.at("advantages"),
      batch.target_mask,
      batch.cu_seqlens};
  const int64_t tokens = mine.size(0);
  const at::Tensor loss = policy_loss(policy_batch, objective.policy)
                              .loss.narrow(0, mesh.cp_rank() * tokens, tokens)
                              .sum()
                              .mul(scale)
                              .view({1});
  return {loss, loss.item<double>()};
}

}  // namespace

std::string to_string(LossKind kind) {
  switch (kind) {
    case LossKind::sft:
      return "sft";
    case LossKind::critic:
      return "critic";
    case LossKind::grpo:
      return "grpo";
    case LossKind::gspo:
      return "gspo";
  }
  return "";
}

Objective make_objective(const TrainOptions& options) {
  Objective objective{options.loss, options.value_eps_clip, options.policy,
                      options.proximal_is_behaviour};
  if (options.loss == LossKind::gspo) objective.policy.sequence_ratio = true;
  return objective;
}

std::vector<std::string> Objective::fields() const {
  if (kind == LossKind::critic) return {"old_values", "returns"};
  if (kind == LossKind::sft) return {};
  if (proximal_is_behaviour) return {"logprobs", "advantages"};
  return {"logprobs", "prox_logprobs", "advantages"};
}

void Objective::validate(const DecoderConfig& config) const {
  if (kind == LossKind::critic)
    ARCHON_VALIDATE(config.critic,
                    "--loss critic needs a model with a score head (architecture "
                    "*ForTokenClassification); this one predicts tokens");
  else
    ARCHON_VALIDATE(!config.critic,
                    "this model is a critic (it has a score head and predicts no tokens); train it "
                    "with --loss critic, or ask `forward` for --what values");
}

MicroBatchLoss Objective::operator()(Model& model, const Mesh& mesh, const PackedBatch& batch,
                                     double scale, ActivationObserver* observer) const {
  const TraceSpan span("forward");
  const PackedBatch slice = ulysses_slice_inputs(batch, mesh.cp_rank(), mesh.shape().cp);
  MicroBatchLoss result;
  const auto tail = [&](const at::Tensor& hidden) {
    if (kind == LossKind::sft)
      result = sft_loss(hidden, model, mesh, slice, scale);
    else if (kind == LossKind::critic)
      result = critic_loss(hidden, model, mesh, slice, scale, value_eps_clip);
    else
      result = policy_gradient_loss(hidden, model, mesh, batch, slice, scale, *this);
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
