#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "archon/model/config.hpp"
#include "archon/parallel/parameter.hpp"

namespace archon {

/// What one rank feeds a model. The packed stream of T tokens (a multiple of cp·tp) is cut into
/// cp contiguous slices; this rank holds slice cp_rank of it.
struct ModelInput {
  at::Tensor tokens;                ///< int64 [T/cp]
  at::Tensor positions;             ///< int64 [T/cp], from 0 in each sequence
  std::vector<int64_t> cu_seqlens;  ///< N+1 offsets into the whole stream, from 0 to <= T; what
                                    ///< lies behind the last is padding
  int64_t max_seqlen = 0;           ///< longest sequence
};

/// Sees activations as the model computes them. `hidden` is this rank's share
/// [T/(cp·tp), hidden_size]: token block cp_rank·tp + tp_rank.
class ActivationObserver {
 public:
  virtual ~ActivationObserver() = default;
  /// Index 0: embedding output; i: residual stream after layer i (1-based).
  virtual void on_hidden(int64_t index, const at::Tensor& hidden) = 0;
  virtual void on_final_norm(const at::Tensor& hidden) = 0;
};

/// A model as the engine sees it.
///
/// Life: built from shapes alone; `set_tp_group` and `set_cp_group` (through the registry's
/// hooks, in this order); `allocate`; weights loaded or initialised; used.
class Model {
 public:
  virtual ~Model() = default;

  virtual const DecoderConfig& config() const = 0;
  /// All parameters, in the order of the HF file. A tied head has none of its own.
  virtual std::vector<Parameter*> parameters() = 0;
  std::vector<const Parameter*> parameters() const;

  virtual void set_tp_group(const Communicator& tp) = 0;
  virtual void set_cp_group(const Communicator& cp) = 0;
  /// Storage for every parameter at this rank's size.
  void allocate(at::ScalarType compute_dtype);
  at::ScalarType dtype() const { return dtype_; }

  /// Output of the final norm: this rank's share [T/(cp·tp), hidden_size].
  virtual at::Tensor forward(const ModelInput& input, ActivationObserver* observer = nullptr) = 0;
  /// Vocabulary-parallel head [vocab rows of this tp rank, hidden_size] (the embedding when
  /// tied), or the score head [1, hidden_size] of a critic.
  virtual const Parameter& head() const = 0;

 private:
  at::ScalarType dtype_ = at::kFloat;
};

}  // namespace archon
