#include "decoder.hpp"

#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include "archon/base/error.hpp"
#include "archon/parallel/tensor_parallel.hpp"
#include "archon/parallel/ulysses.hpp"

namespace archon {
namespace {

Parameter norm_weight(const std::string& name, int64_t width) {
  return Parameter({{{name, {width}}}, TpPlacement::replicated});
}

}  // namespace

Attention::Attention(const DecoderConfig& config, const std::string& prefix)
    : config_(config),
      qkv_(
          {{{prefix + "query.weight", {config.num_heads * config.head_dim, config.hidden_size}},
            {prefix + "key.weight", {config.num_kv_heads * config.head_dim, config.hidden_size}},
            {prefix + "value.weight", {config.num_kv_heads * config.head_dim, config.hidden_size}}},
           TpPlacement::rows}),
      qkv_bias_({{{prefix + "query.bias", {config.num_heads * config.head_dim}},
                  {prefix + "key.bias", {config.num_kv_heads * config.head_dim}},
                  {prefix + "value.bias", {config.num_kv_heads * config.head_dim}}},
                 TpPlacement::rows}),
      query_norm_(norm_weight(prefix + "query_norm.weight", config.head_dim)),
      key_norm_(norm_weight(prefix + "key_norm.weight", config.head_dim)),
      output_(
          {{{prefix + "output.weight", {config.hidden_size, config.num_heads * config.head_dim}}},
           TpPlacement::columns}) {}

void Attention::set_tp_group(const Communicator& tp) {
  tp_ = &tp;
  for (Parameter* p : {&qkv_, &qkv_bias_, &query_norm_, &key_norm_, &output_})
    p->set_tp(tp.rank(), tp.size());
}

void Attention::collect(std::vector<Parameter*>& parameters) {
  parameters.push_back(&qkv_);
  if (config_.qkv_bias) parameters.push_back(&qkv_bias_);
  if (config_.qk_norm) parameters.insert(parameters.end(), {&query_norm_, &key_norm_});
  parameters.push_back(&output_);
}

at::Tensor Attention::forward(const at::Tensor& x, const BlockContext& context) const {
  const int64_t heads = config_.num_heads / tp_->size(),
                kv_heads = config_.num_kv_heads / tp_->size();
  const UlyssesHeads layout{heads, kv_heads, cp_->size()};

  at::Tensor qkv = column_parallel_linear(x, qkv_.value(), qkv_bias_.value(), *tp_)
                       .view({-1, heads + 2 * kv_heads, config_.head_dim});
  qkv = query_key_norm_rotary(qkv, query_norm_.value(), key_norm_.value(), context.rotary, heads,
                              kv_heads, config_.rms_norm_eps);
  qkv = ulysses_scatter_heads(qkv, layout, *cp_);
  at::Tensor out = packed_attention(qkv, context.input.cu_seqlens, layout.heads_per_rank(),
                                    layout.kv_heads_per_rank());
  out = ulysses_gather_heads(out, *cp_);
  return row_parallel_linear(out.view({-1, heads * config_.head_dim}), output_.value(), *tp_);
}

Mlp::Mlp(const DecoderConfig& config, const std::string& prefix)
    : gate_up_({{{prefix + "gate.weight", {config.intermediate_size, config.hidden_size}},
                 {prefix + "up.weight", {config.intermediate_size, config.hidden_size}}},
                TpPlacement::rows}),
      down_({{{prefix + "down.weight", {config.hidden_size, config.intermediate_size}}},
             TpPlacement::columns}) {}

void Mlp::set_tp_group(const Communicator& tp) {
  tp_ = &tp;
  gate_up_.set_tp(tp.rank(), tp.size());
  down_.set_tp(tp.rank(), tp.size());
}

void Mlp::collect(std::vector<Parameter*>& parameters) {
  parameters.insert(parameters.end(), {&gate_up_, &down_});
}

at::Tensor Mlp::forward(const at::Tensor& x) const {
  const at::Tensor gate_up = column_parallel_linear(x, gate_up_.value(), at::Tensor(), *tp_);
  return row_parallel_linear(swiglu(gate_up), down_.value(), *tp_);
}

DecoderLayer::DecoderLayer(const DecoderConfig& config, int64_t index)
    : config_(config),
      attention_norm_(
          norm_weight(fmt::format("layers.{}.attention_norm.weight", index), config.hidden_size)),
      mlp_norm_(norm_weight(fmt::format("layers.{}.mlp_norm.weight", index), config.hidden_size)),
      attention_(config, fmt::format("layers.{}.attention.", index)),
      mlp_(config, fmt::format("layers.{}.mlp.", index)) {}

void DecoderLayer::set_tp_group(const Communicator& tp) {
  attention_norm_.set_tp(tp.rank(), tp.size());
  mlp_norm_.set_tp(tp.rank(), tp.size());
  attention_.set_tp_group(tp);
  mlp_.set_tp_group(tp);
}

void DecoderLayer::collect(std::vector<Parameter*>& parameters) {
  parameters.push_back(&attention_norm_);
  attention_.collect(parameters);
  parameters.push_back(&mlp_norm_);
  mlp_.collect(parameters);
}

at::Tensor DecoderLayer::forward(const at::Tensor& x, const BlockContext& context) const {
  const double eps = config_.rms_norm_eps;
  const at::Tensor h = x + attention_.forward(rms_norm(x, attention_norm_.value(), eps), context);
  return h + mlp_.forward(rms_norm(h, mlp_norm_.value(), eps));
}

Decoder::Decoder(const DecoderConfig& config)
    : config_(config),
      embedding_(
          {{{"embedding.weight", {config.vocab_size, config.hidden_size}}}, TpPlacement::rows}),
      final_norm_(norm_weight("final_norm.weight", config.hidden_size)) {
  for (int64_t i = 0; i < config_.num_layers; ++i)
    layers_.push_back(std::make_unique<DecoderLayer>(config_, i));
  if (config_.critic)
    head_ = std::make_unique<Parameter>(
        ParameterSpec{{{"score.weight", {1, config_.hidden_size}}}, TpPlacement::replicated});
  else if (!config_.tied_embeddings)
    head_ = std::make_unique<Parameter>(ParameterSpec{
        {{"head.weight", {config_.vocab_size, config_.hidden_size}}}, TpPlacement::rows});
}

std::vector<Parameter*> Decoder::parameters() {
  std::vector<Parameter*> all = {&embedding_};
  for (const auto& layer : layers_) layer->collect(all);
  all.push_back(&final_norm_);
  if (head_) all.push_back(head_.get());
  return all;
}

void Decoder::set_tp_group(const Communicator& tp) {
  tp_ = &tp;
  embedding_.set_tp(tp.rank(), tp.size());
  for (const auto& layer : layers_) layer->set_tp_group(tp);
  final_norm_.set_tp(tp.rank(), tp.size());
  if (head_) head_->set_tp(tp.rank(), tp.size());
}

void Decoder::set_cp_group(const Communicator& cp) {
  cp_ = &cp;
  for (const auto& layer : layers_) layer->set_cp_group(cp);
}

const Parameter& Decoder::head() const { return head_ ? *head_ : embedding_; }

at::Tensor Decoder::forward(const ModelInput& input, ActivationObserver* observer) {
  ARCHON_EXPECT(tp_ != nullptr && cp_ != nullptr && embedding_.allocated());
  const RotaryTable rotary = rotary_table(input.positions, config_.head_dim, config_.rope_theta);
  const BlockContext context{input, rotary};

  at::Tensor x = vocab_parallel_embedding(input.tokens, embedding_.value(),
                                          embedding_.tp_range(0).begin, *tp_);
  if (observer != nullptr) observer->on_hidden(0, x);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    x = layers_[i]->forward(x, context);
    if (observer != nullptr) observer->on_hidden(static_cast<int64_t>(i) + 1, x);
  }
  x = rms_norm(x, final_norm_.value(), config_.rms_norm_eps);
  if (observer != nullptr) observer->on_final_norm(x);
  return x;
}

std::unique_ptr<Model> make_decoder(const DecoderConfig& config) {
  return std::make_unique<Decoder>(config);
}

}  // namespace archon
