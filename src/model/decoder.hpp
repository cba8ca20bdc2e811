#pragma once

#include <memory>
#include <vector>

#include "archon/model/decoder.hpp"
#include "archon/model/ops.hpp"
#include "archon/parallel/segment.hpp"

namespace archon {

/// Everything a block needs besides the residual stream, the same for all blocks of one forward
/// and its backward.
struct BlockContext {
  std::vector<int64_t> cu_seqlens;
  RotaryTable rotary;
  std::vector<KeyValueCache*> caches;
};

/// Grouped-query attention: projections over tp, heads over cp inside.
class Attention {
 public:
  Attention(const DecoderConfig& config, const std::string& prefix, int64_t layer);
  void set_tp_group(const Communicator& tp);
  void set_cp_group(const Communicator& cp) { cp_ = &cp; }
  void collect(std::vector<Parameter*>& parameters);
  /// x and result [T/(cp·tp), hidden_size].
  at::Tensor forward(const at::Tensor& x, const BlockContext& context) const;

 private:
  const DecoderConfig& config_;
  int64_t layer_;
  Parameter qkv_, qkv_bias_, query_norm_, key_norm_, output_;
  const Communicator* tp_ = nullptr;
  const Communicator* cp_ = nullptr;
};

/// SwiGLU feed-forward.
class Mlp {
 public:
  Mlp(const DecoderConfig& config, const std::string& prefix);
  void set_tp_group(const Communicator& tp);
  /// At most so many of this rank's tokens at a time; 0 = all.
  void set_tile_tokens(int64_t tokens) { tile_tokens_ = tokens; }
  void collect(std::vector<Parameter*>& parameters);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  at::Tensor forward_tile(const at::Tensor& x) const;

  Parameter gate_up_, down_;
  int64_t tile_tokens_ = 0;
  const Communicator* tp_ = nullptr;
};

/// One block: x + attention(norm(x)), then x + mlp(norm(x)).
class DecoderLayer {
 public:
  DecoderLayer(const DecoderConfig& config, int64_t index);
  void set_tp_group(const Communicator& tp);
  void set_cp_group(const Communicator& cp) { attention_.set_cp_group(cp); }
  void set_tile_tokens(int64_t tokens) { mlp_.set_tile_tokens(tokens); }
  std::vector<Parameter*> parameters();
  ParameterUnit& unit() { return unit_; }
  at::Tensor forward(const at::Tensor& x, const BlockContext& context) const;

 private:
  const DecoderConfig& config_;
  Parameter attention_norm_, mlp_norm_;
  Attention attention_;
  Mlp mlp_;
  ParameterUnit unit_;
};

class Decoder : public Model {
 public:
  explicit Decoder(const DecoderConfig& config);

  const DecoderConfig& config() const override { return config_; }
  using Model::parameters;
  std::vector<Parameter*> parameters() override;
  std::vector<ParameterUnit*> units() override;
  void set_tp_group(const Communicator& tp) override;
  void set_cp_group(const Communicator& cp) override;
  void set_activation_options(const ActivationOptions& options, GpuRuntime* gpu) override;
  at::Tensor forward(const ModelInput& input, const ModelTail& tail,
                     ActivationObserver* observer) override;
  const Parameter& head() const override;

 private:
  at::Tensor embed(const at::Tensor& tokens);
  at::Tensor finish(const at::Tensor& x, const ModelTail& tail, ActivationObserver* observer);
  ParameterUnit& unit_after(std::size_t layer);

  DecoderConfig config_;
  Parameter embedding_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  Parameter final_norm_;
  std::unique_ptr<Parameter> head_;  // none when tied
  // Without a head of its own the final norm shares the embedding's unit.
  std::unique_ptr<ParameterUnit> embedding_unit_, own_final_unit_;
  ParameterUnit* final_unit_ = nullptr;
  ActivationCheckpointing checkpointing_;
  std::unique_ptr<ActivationOffload> offload_;
  const Communicator* tp_ = nullptr;
  const Communicator* cp_ = nullptr;
};

}  // namespace archon
