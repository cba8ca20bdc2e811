#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "archon/parallel/parameter.hpp"

namespace archon {

/// Where parameters, gradients and optimizer state lie over the shard group (Rajbhandari et al.
/// 2020, arXiv:1910.02054; Zhao et al. 2023, arXiv:2304.11277).
enum class ShardMode {
  none,       ///< all of it on every rank; gradients are summed once a step
  optimizer,  ///< values on every rank; gradients, masters and moments on their owner
  full        ///< values, too, on their owner, and gathered for as long as they are used
};

/// How the units of a model are stored, the same for all of them.
struct ShardPolicy {
  at::ScalarType compute_dtype = at::kFloat;
  at::Device device = at::kCPU;        ///< of all tensors of the units
  ShardMode mode = ShardMode::none;
  bool reshard_after_forward = true;   ///< full: release values between forward and backward
  bool float32_gradients = false;      ///< exchange float32 also where the compute type is narrower
  bool overlap = true;  ///< communicate while computing; off only to measure what that gains
};

/// What the units of one model share: the policy, the group, and the one reduction under way.
class Sharding {
 public:
  /// `group` must outlive it. A group of one rank shards nothing.
  Sharding(const ShardPolicy& policy, const Communicator& group);

  const ShardPolicy& policy() const { return policy_; }
  const Communicator& group() const { return *group_; }
  /// Gradients, masters and optimizer state lie on their owner.
  bool sharded() const { return policy_.mode != ShardMode::none; }
  /// Nothing is added to the first gradient of a step but those of other backwards: it need not be
  /// float32.
  bool keeps_type(const Parameter& parameter) const;

  /// Takes over a reduction that was started, after the one before it is done.
  void begin_reduction(Work work);
  /// Waits for the reduction under way. Call after the last backward of a step.
  void finish_reduction() { reduction_.wait(); }

 private:
  ShardPolicy policy_;
  const Communicator* group_;
  Work reduction_;
};

/// Parameters that are gathered, used and released together: the embedding, one block, the final
/// norm with the head.
///
/// They lie one behind the other in one flat buffer, cut into equal blocks, one for each rank of
/// the shard group (the last is padded by less than one element per rank). Gathering is one
/// all-gather of the blocks in the compute type. Gradients are exchanged in the type in which
/// autograd computes them and summed in float32 by their owner. Those of parameters that tp
/// replicates are few; every rank keeps them whole until they are summed over the mesh
/// (reduce_gradients).
class ParameterUnit {
 public:
  ParameterUnit(const std::string& name, std::vector<Parameter*> parameters);
  ParameterUnit(const ParameterUnit&) = delete;
  ParameterUnit& operator=(const ParameterUnit&) = delete;

  /// Lives as long as the process.
  const char* name() const { return name_; }
  const std::vector<Parameter*>& parameters() const { return parameters_; }

  /// Decides which rank owns what; no memory yet. `sharding` must outlive the unit.
  void place(Sharding& sharding);
  /// Places, and provides storage for masters (uninitialised) and values.
  void allocate(Sharding& sharding);
  /// Elements of the flat buffer, and of the block that this rank owns.
  int64_t elements() const { return elements_; }
  int64_t block() const { return block_; }

  /// Starts to gather the values, unless they are there or on their way. Collective over the shard
  /// group, like all that follow.
  void prefetch();
  /// Values are readable when it returns.
  void gather();
  /// The values' memory is given back, if the policy says so: `after_forward`, while a backward is
  /// to come. Tensors that refer to them stay valid and show them again after the next gather.
  void release(bool after_forward);
  /// Makes the values that stay on every rank from the masters: after loading, after a step.
  void refresh_values();

  /// Forgets the gradients of the last step.
  void clear_gradients();
  /// Starts to sum the gradients that a backward left; call when it is done with this unit.
  void reduce_gradients();

 private:
  class GradientSink;
  /// Values live on their owner alone while they are not used.
  bool releases() const;
  /// The gradient is summed by its owner after each backward.
  bool exchanges(const Parameter& parameter) const;
  void allocate_values();
  void start_gather();
  void take_gradient(std::size_t index);
  void add_gradient(Parameter& parameter, const at::Tensor& grad) const;
  at::Tensor empty_gradients() const;
  void zero_what_did_not_arrive();
  void add_reduced(const at::Tensor& sum);
  at::Tensor block_view(const at::Tensor& block, const Parameter& parameter) const;

  const char* name_;
  std::vector<Parameter*> parameters_;
  std::vector<bool> arrived_;  // whose gradients outgoing_ holds
  Sharding* sharding_ = nullptr;
  int64_t block_ = 0, elements_ = 0;
  bool present_ = false;  // values are there, or on their way
  at::Tensor master_;     // float32 [block]
  at::Tensor values_;     // compute type [elements]; without memory while released
  at::Tensor grad_;       // float32 [block], the sum so far; undefined before the first
  at::Tensor outgoing_;   // [elements], gradients of the backward under way
  Work gathering_;
};

}  // namespace archon
