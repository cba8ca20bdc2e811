#pragma once

#include <memory>
#include <vector>

#include "archon/model/decoder.hpp"
#include "archon/model/ops.hpp"

namespace archon {

/// Everything a block needs besides the residual stream, the same for all blocks of one forward.
struct BlockContext {
  const ModelInput& input;
  const RotaryTable& rotary;
};

/// Grouped-query attention: projections over tp, heads over cp inside.
class Attention {
 public:
  Attention(const DecoderConfig& config, const std::string& prefix);
  void set_tp_group(const Communicator& tp);
  void set_cp_group(const Communicator& cp) { cp_ = &cp; }
  void collect(std::vector<Parameter*>& parameters);
  /// x and result [T/(cp·tp), hidden_size].
  at::Tensor forward(const at::Tensor& x, const BlockContext& context) const;

 private:
  const DecoderConfig& config_;
  Parameter qkv_, qkv_bias_, query_norm_, key_norm_, output_;
  const Communicator* tp_ = nullptr;
  const Communicator* cp_ = nullptr;
};

/// SwiGLU feed-forward.
class Mlp {
 public:
  Mlp(const DecoderConfig& config, const std::string& prefix);
  void set_tp_group(const Communicator& tp);
  void collect(std::vector<Parameter*>& parameters);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  Parameter gate_up_, down_;
  const Communicator* tp_ = nullptr;
};

/// One block: x + attention(norm(x)), then x + mlp(norm(x)).
class DecoderLayer {
 public:
  DecoderLayer(const DecoderConfig& config, int64_t index);
  void set_tp_group(const Communicator& tp);
  void set_cp_group(const Communicator& cp) { attention_.set_cp_group(cp); }
  void collect(std::vector<Parameter*>& parameters);
  at::Tensor forward(const at::Tensor& x, const BlockContext& context) const;

 private:
  const DecoderConfig& config_;
  Parameter attention_norm_, mlp_norm_;
  Attention attention_;
  Mlp mlp_;
};

class Decoder : public Model {
 public:
  explicit Decoder(const DecoderConfig& config);

  const DecoderConfig& config() const override { return config_; }
  using Model::parameters;
  std::vector<Parameter*> parameters() override;
  void set_tp_group(const Communicator& tp) override;
  void set_cp_group(const Communicator& cp) override;
  at::Tensor forward(const ModelInput& input, ActivationObserver* observer) override;
  const Parameter& head() const override;

 private:
  DecoderConfig config_;
  Parameter embedding_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  Parameter final_norm_;
  std::unique_ptr<Parameter> head_;  // none when tied
  const Communicator* tp_ = nullptr;
  const Communicator* cp_ = nullptr;
};

}  // namespace archon
