#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "archon/parallel/offload.hpp"
#include "archon/parallel/parameter_unit.hpp"
#include "archon/parallel/recompute.hpp"

namespace archon {

/// A stretch of the model that uses one unit's parameters: what happens around it.
struct Segment {
  ParameterUnit& unit;
  ParameterUnit* previous = nullptr;  ///< gathered on the way while this one's backward computes
  ParameterUnit* next = nullptr;      ///< the same, forward
  Recompute recompute = Recompute::none;
  bool backward_uses_values = true;    ///< false: a lookup, whose backward needs no parameters
  bool backward_follows = false;       ///< the last one: its values stay for the backward
  ActivationOffload* offload = nullptr;  ///< recomputed ones: where their input waits
};

/// y = body(x), seen by autograd as one node. Around it, forward and backward, the unit's values
/// are gathered and released, the neighbour's gathering starts, and after the backward the unit's
/// gradients go on their way. `body` uses x and the unit's parameters; what else it refers to must
/// live until backward. Random numbers it draws are the same in a recomputation.
///
/// x may be a tensor that needs no gradient (tokens). Collective over the shard group.
at::Tensor run_segment(const Segment& segment, const at::Tensor& x,
                       std::function<at::Tensor(const at::Tensor&)> body);

/// The same for a stretch within a segment, without a unit: only x is kept, and the stretch is
/// recomputed in backward.
at::Tensor run_recomputed(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&)> body);

}  // namespace archon
