#pragma once

#include <ATen/core/Tensor.h>

#include "archon/comm/communicator.hpp"

namespace archon {

/// The inverse of ulysses_slice_inputs for outputs: slices [T/cp, ...] of all cp ranks become
/// [T, ...] on each. Collective over cp; not differentiable.
at::Tensor ulysses_gather_output(const at::Tensor& slice, const Communicator& cp);

}  // namespace archon
