#include "decoder.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/split.h>
#include <fmt/format.h>

#include "archon/base/error.hpp"
#include "archon/parallel/device_copy.hpp"
#include "archon/parallel/tensor_parallel.hpp"
#include "archon/parallel/ulysses.hpp"

namespace archon {
namespace {

std::unique_ptr<ParameterUnit> make_unit(const std::string& name,
                                         std::vector<Parameter*> parameters) {
  return std::make_unique<ParameterUnit>(name, std::move(parameters));
}

Parameter norm_weight(const std::string& name, int64_t width) {
  return Parameter({{{name, {width}}}, TpPlacement::replicated});
}

}  // namespace

Attention::Attention(const DecoderConfig& config, const std::string& prefix, int64_t layer)
    : config_(config),
      layer_(layer),
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

  at::Tensor qkv = column_parallel_linear(x, qkv_.value(), qkv_bias_.value(), *tp_,
                                          WhenRecomputed::reuse)
                       .view({-1, heads + 2 * kv_heads, config_.head_dim});
  qkv = query_key_norm_rotary(qkv, query_norm_.value(), key_norm_.value(), context.rotary, heads,
                              kv_heads, config_.rms_norm_eps);
  qkv = ulysses_scatter_heads(qkv, layout, *cp_);
  at::Tensor out =
      context.caches.empty()
          ? packed_attention(qkv, context.cu_seqlens, layout.heads_per_rank(),
                             layout.kv_heads_per_rank())
          : cached_attention(qkv, context.cu_seqlens, heads, context.caches, layer_);
  out = ulysses_gather_heads(out, *cp_);
  return row_parallel_linear(out.view({-1, heads * config_.head_dim}), output_.value(), *tp_,
                             WhenRecomputed::reuse);
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

at::Tensor Mlp::forward_tile(const at::Tensor& x) const {
  const at::Tensor gate_up =
      column_parallel_linear(x, gate_up_.value(), at::Tensor(), *tp_, WhenRecomputed::reuse);
  return row_parallel_linear(swiglu(gate_up), down_.value(), *tp_, WhenRecomputed::skip);
}

at::Tensor Mlp::forward(const at::Tensor& x) const {
  if (tile_tokens_ == 0 || x.size(0) <= tile_tokens_) return forward_tile(x);
  std::vector<at::Tensor> tiles;
  for (const at::Tensor& tile : x.split(tile_tokens_))
    tiles.push_back(run_recomputed(tile, [this](const at::Tensor& t) { return forward_tile(t); }));
  return at::cat(tiles);
}

DecoderLayer::DecoderLayer(const DecoderConfig& config, int64_t index)
    : config_(config),
      attention_norm_(
          norm_weight(fmt::format("layers.{}.attention_norm.weight", index), config.hidden_size)),
      mlp_norm_(norm_weight(fmt::format("layers.{}.mlp_norm.weight", index), config.hidden_size)),
      attention_(config, fmt::format("layers.{}.attention.", index), index),
      mlp_(config, fmt::format("layers.{}.mlp.", index)),
      unit_(fmt::format("layers.{}", index), parameters()) {}

void DecoderLayer::set_tp_group(const Communicator& tp) {
  attention_norm_.set_tp(tp.rank(), tp.size());
  mlp_norm_.set_tp(tp.rank(), tp.size());
  attention_.set_tp_group(tp);
  mlp_.set_tp_group(tp);
}

std::vector<Parameter*> DecoderLayer::parameters() {
  std::vector<Parameter*> all = {&attention_norm_};
  attention_.collect(all);
  all.push_back(&mlp_norm_);
  mlp_.collect(all);
  return all;
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
  if (head_) {
    embedding_unit_ = make_unit("embedding", {&embedding_});
    own_final_unit_ = make_unit("final norm and head", {&final_norm_, head_.get()});
    final_unit_ = own_final_unit_.get();
  } else {
    embedding_unit_ = make_unit("embedding and final norm", {&embedding_, &final_norm_});
    final_unit_ = embedding_unit_.get();
  }
}

std::vector<Parameter*> Decoder::parameters() {
  std::vector<Parameter*> all = {&embedding_};
  for (const auto& layer : layers_) {
    const auto own = layer->parameters();
    all.insert(all.end(), own.begin(), own.end());
  }
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

std::vector<ParameterUnit*> Decoder::units() {
  std::vector<ParameterUnit*> all = {embedding_unit_.get()};
  for (const auto& layer : layers_) all.push_back(&layer->unit());
  if (own_final_unit_) all.push_back(own_final_unit_.get());
  return all;
}

void Decoder::set_activation_options(const ActivationOptions& options, GpuRuntime* gpu) {
  ARCHON_EXPECT(!options.offload || gpu != nullptr);
  checkpointing_ = options.checkpointing;
  offload_ = options.offload ? std::make_unique<ActivationOffload>(*gpu) : nullptr;
  for (const auto& layer : layers_) layer->set_tile_tokens(options.mlp_tile_tokens);
}

ParameterUnit& Decoder::unit_after(std::size_t layer) {
  return layer + 1 == layers_.size() ? *final_unit_ : layers_[layer + 1]->unit();
}

at::Tensor Decoder::embed(const at::Tensor& tokens) {
  const Segment segment{.unit = *embedding_unit_,
                        .next = &layers_.front()->unit(),
                        .backward_uses_values = false};
  return run_segment(segment, tokens, [this](const at::Tensor& ids) {
    return vocab_parallel_embedding(ids, embedding_.value(), embedding_.tp_range(0).begin, *tp_);
  });
}

at::Tensor Decoder::finish(const at::Tensor& x, const ModelTail& tail,
                           ActivationObserver* observer) {
  const Segment segment{.unit = *final_unit_,
                        .previous = &layers_.back()->unit(),
                        .backward_follows = true};
  return run_segment(segment, x, [this, tail, observer](const at::Tensor& stream) {
    const at::Tensor hidden = rms_norm(stream, final_norm_.value(), config_.rms_norm_eps);
    if (observer != nullptr) observer->on_final_norm(hidden);
    return tail(hidden);
  });
}

at::Tensor Decoder::forward(const ModelInput& input, const ModelTail& tail,
                            ActivationObserver* observer) {
  ARCHON_EXPECT(tp_ != nullptr && cp_ != nullptr && embedding_.allocated());
  ARCHON_EXPECT(input.caches.empty() || (cp_->size() == 1 && !at::GradMode::is_enabled()));
  for (std::size_t i = 0; i < input.caches.size(); ++i)
    input.caches[i]->extend(input.cu_seqlens[i + 1] - input.cu_seqlens[i]);
  const at::Device device = embedding_.value().device();
  const auto context = std::make_shared<const BlockContext>(
      input.cu_seqlens,
      rotary_table(copy_to(device, input.positions), config_.head_dim, config_.rope_theta),
      input.caches);

  at::Tensor x = embed(copy_to(device, input.tokens));
  if (observer != nullptr) observer->on_hidden(0, x);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Segment segment{.unit = layers_[i]->unit(),
                          // The embedding's backward is a sum of rows, which needs no values.
                          .previous = i == 0 ? nullptr : &layers_[i - 1]->unit(),
                          .next = &unit_after(i),
                          .recompute = checkpointing_.of_layer(static_cast<int64_t>(i)),
                          .offload = offload_.get()};
    x = run_segment(segment, x, [layer = layers_[i].get(), context](const at::Tensor& stream) {
      return layer->forward(stream, *context);
    });
    if (observer != nullptr) observer->on_hidden(static_cast<int64_t>(i) + 1, x);
  }
  return finish(x, tail, observer);
}

std::unique_ptr<Model> make_decoder(const DecoderConfig& config) {
  return std::make_unique<Decoder>(config);
}

}  // namespace archon
