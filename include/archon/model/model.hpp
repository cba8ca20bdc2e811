#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "archon/model/config.hpp"
#include "archon/model/key_value_cache.hpp"
#include "archon/parallel/parameter_unit.hpp"
#include "archon/parallel/recompute.hpp"

namespace archon {

/// What one rank feeds a model, in host memory. The packed stream of T tokens (a multiple of cp·tp)
/// is cut into cp contiguous slices; this rank holds slice cp_rank of it.
struct ModelInput {
  at::Tensor tokens;                ///< int64 [T/cp]
  at::Tensor positions;             ///< int64 [T/cp], from 0 in each sequence
  std::vector<int64_t> cu_seqlens;  ///< N+1 offsets into the whole stream, from 0 to <= T; what
                                    ///< lies behind the last is padding
  int64_t max_seqlen = 0;           ///< longest sequence
  /// One for each sequence, or none. The sequences go on from what they hold, and their tokens are
  /// added; positions go on, too. Without gradients, and for cp = 1.
  std::vector<KeyValueCache*> caches = {};
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

/// --activation-checkpointing: which layers recompute what.
struct ActivationCheckpointing {
  enum class Mode { none, full, every, selective };
  Mode mode = Mode::none;
  int64_t every = 1;  ///< Mode::every: layers 0, K, 2K, ... are recomputed in full

  Recompute of_layer(int64_t layer) const;
};

/// What keeps a long sequence's activations small, and the activations of every sequence.
struct ActivationOptions {
  ActivationCheckpointing checkpointing;
  int64_t mlp_tile_tokens = 0;  ///< feed-forward in tiles of so many of this rank's tokens,
                                ///< recomputed in backward; 0 = all at once
  bool offload = false;         ///< on a GPU, what recomputed layers keep waits in host memory
};

/// What follows the final norm: from its output, this rank's share [T/(cp·tp), hidden_size], to a
/// loss or whatever else. The head's values are readable in it.
using ModelTail = std::function<at::Tensor(const at::Tensor& hidden)>;

/// A model as the engine sees it.
///
/// Life: built from shapes alone; `set_tp_group` and `set_cp_group` (through the registry's
/// hooks, in this order); `set_activation_options`; `allocate`; weights loaded or initialised; used.
class Model {
 public:
  virtual ~Model() = default;

  virtual const DecoderConfig& config() const = 0;
  /// All parameters, in the order of the HF file. A tied head has none of its own.
  virtual std::vector<Parameter*> parameters() = 0;
  std::vector<const Parameter*> parameters() const;
  /// Each parameter in exactly one; in the order in which forward uses them.
  virtual std::vector<ParameterUnit*> units() = 0;

  virtual void set_tp_group(const Communicator& tp) = 0;
  virtual void set_cp_group(const Communicator& cp) = 0;
  /// `gpu`: whose activations the offload takes; null on the CPU.
  virtual void set_activation_options(const ActivationOptions& options, GpuRuntime* gpu) = 0;
  /// Storage for every parameter at this rank's size. `shard_group` must outlive the model.
  void allocate(const ShardPolicy& policy, const Communicator& shard_group);
  Sharding& sharding() const { return *sharding_; }

  /// The tail's result. Gradients arrive in the parameters during its backward.
  virtual at::Tensor forward(const ModelInput& input, const ModelTail& tail,
                             ActivationObserver* observer = nullptr) = 0;
  /// Vocabulary-parallel head [vocab rows of this tp rank, hidden_size] (the embedding when
  /// tied), or the score head [1, hidden_size] of a critic.
  virtual const Parameter& head() const = 0;

 private:
  std::unique_ptr<Sharding> sharding_;
};

}  // namespace archon
