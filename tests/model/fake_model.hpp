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
  explicit FakeModel(DecoderConfig config)
      : config_(std::move(config)), parameters_(declare(config_)), unit_("all", parameters()) {}

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
  std::vector<ParameterUnit*> units() override { return {&unit_}; }
  void set_activation_options(const ActivationOptions&, GpuRuntime*) override {}
  at::Tensor forward(const ModelInput& input, const ModelTail&, ActivationObserver*) override {
    return input.tokens;
  }
  const Parameter& head() const override { return *parameters_.back(); }

  int tp_size = 0;  ///< of the group it was given
  int cp_size = 0;

 private:
  using Parameters = std::vector<std::unique_ptr<Parameter>>;

  static Parameters declare(const DecoderConfig& config) {
    Parameters all;
    const auto add = [&](std::vector<ParameterPart> parts, TpPlacement placement) {
      all.push_back(std::make_unique<Parameter>(ParameterSpec{std::move(parts), placement}));
    };
    const int64_t hidden = config.hidden_size;
    const int64_t queries = config.num_heads * config.head_dim;
    const int64_t keys = config.num_kv_heads * config.head_dim;
    const int64_t inner = config.intermediate_size;
    add({{"embedding.weight", {config.vocab_size, hidden}}}, TpPlacement::rows);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      const std::string layer = "layers." + std::to_string(i) + ".";
      const std::string attention = layer + "attention.";
      add({{layer + "attention_norm.weight", {hidden}}}, TpPlacement::replicated);
      add({{attention + "query.weight", {queries, hidden}},
           {attention + "key.weight", {keys, hidden}},
           {attention + "value.weight", {keys, hidden}}},
          TpPlacement::rows);
      if (config.qkv_bias) {
        add({{attention + "query.bias", {queries}},
             {attention + "key.bias", {keys}},
             {attention + "value.bias", {keys}}},
            TpPlacement::rows);
      }
      add({{attention + "output.weight", {hidden, queries}}}, TpPlacement::columns);
      if (config.qk_norm) {
        add({{attention + "query_norm.weight", {config.head_dim}}}, TpPlacement::replicated);
        add({{attention + "key_norm.weight", {config.head_dim}}}, TpPlacement::replicated);
      }
      add({{layer + "mlp_norm.weight", {hidden}}}, TpPlacement::replicated);
      add({{layer + "mlp.gate.weight", {inner, hidden}},
           {layer + "mlp.up.weight", {inner, hidden}}},
          TpPlacement::rows);
      add({{layer + "mlp.down.weight", {hidden, inner}}}, TpPlacement::columns);
    }
    add({{"final_norm.weight", {hidden}}}, TpPlacement::replicated);
    if (config.critic) {
      add({{"score.weight", {1, hidden}}}, TpPlacement::replicated);
    } else if (!config.tied_embeddings) {
      add({{"head.weight", {config.vocab_size, hidden}}}, TpPlacement::rows);
    }
    return all;
  }

  DecoderConfig config_;
  Parameters parameters_;
  ParameterUnit unit_;
};

}  // namespace archon::test
