#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "archon/model/model.hpp"

namespace archon::test {

/// The parameters of a decoder, laid over tp as the real one lays them, without any computation.
class FakeModel : public Model {
 public:
  explicit FakeModel(DecoderConfig config) : config_(std::move(config)) {
    const int64_t hidden = config_.hidden_size;
    const int64_t queries = config_.num_heads * config_.head_dim;
    const int64_t keys = config_.num_kv_heads * config_.head_dim;
    const int64_t inner = config_.intermediate_size;
    add({{"embedding.weight", {config_.vocab_size, hidden}}}, TpPlacement::rows);
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      const std::string layer = "layers." + std::to_string(i) + ".";
      const std::string attention = layer + "attention.";
      add({{layer + "attention_norm.weight", {hidden}}}, TpPlacement::replicated);
      add({{attention + "query.weight", {queries, hidden}},
           {attention + "key.weight", {keys, hidden}},
           {attention + "value.weight", {keys, hidden}}},
          TpPlacement::rows);
      if (config_.qkv_bias) {
        add({{attention + "query.bias", {queries}},
             {attention + "key.bias", {keys}},
             {attention + "value.bias", {keys}}},
            TpPlacement::rows);
      }
      add({{attention + "output.weight", {hidden, queries}}}, TpPlacement::columns);
      if (config_.qk_norm) {
        add({{attention + "query_norm.weight", {config_.head_dim}}}, TpPlacement::replicated);
        add({{attention + "key_norm.weight", {config_.head_dim}}}, TpPlacement::replicated);
      }
      add({{layer + "mlp_norm.weight", {hidden}}}, TpPlacement::replicated);
      add({{layer + "mlp.gate.weight", {inner, hidden}},
           {layer + "mlp.up.weight", {inner, hidden}}},
          TpPlacement::rows);
      add({{layer + "mlp.down.weight", {hidden, inner}}}, TpPlacement::columns);
    }
    add({{"final_norm.weight", {hidden}}}, TpPlacement::replicated);
    if (config_.critic) {
      add({{"score.weight", {1, hidden}}}, TpPlacement::replicated);
    } else if (!config_.tied_embeddings) {
      add({{"head.weight", {config_.vocab_size, hidden}}}, TpPlacement::rows);
    }
  }

  const DecoderConfig& config() const override { return config_; }
  std::vector<Parameter*> parameters() override {
    std::vector<Parameter*> all;
    for (const auto& parameter : parameters_) all.push_back(parameter.get());
    return all;
  }
  using Model::parameters;
  void set_tp_group(const Communicator& tp) override {
    tp_size = tp.size();
    for (const auto& parameter : parameters_) parameter->set_tp(tp.rank(), tp.size());
  }
  void set_cp_group(const Communicator& cp) override { cp_size = cp.size(); }
  at::Tensor forward(const ModelInput& input, ActivationObserver*) override { return input.tokens; }
  const Parameter& head() const override { return *parameters_.back(); }

  int tp_size = 0;  ///< of the group it was given
  int cp_size = 0;

 private:
  void add(std::vector<ParameterPart> parts, TpPlacement placement) {
    parameters_.push_back(std::make_unique<Parameter>(ParameterSpec{std::move(parts), placement}));
  }
  DecoderConfig config_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
};

}  // namespace archon::test
