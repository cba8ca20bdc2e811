#pragma once

#include <vector>

#include "archon/mesh/mesh.hpp"
#include "archon/parallel/parameter_unit.hpp"

namespace archon {

/// Completes the sum of every parameter's gradient over the ranks that hold parts of it: the shard
/// group (dp and cp), and tp as well for replicated parameters. Gradients that are exchanged after
/// each backward are summed already but for the last reduction under way. Collective over the mesh.
void reduce_gradients(const std::vector<ParameterUnit*>& units, Sharding& sharding,
                      const Mesh& mesh);

/// 2-norm of all (reduced) gradients: every element counted once, by one rank that owns it.
/// Accumulates in float64. The same on every rank; collective over the mesh.
double gradient_norm(const std::vector<ParameterUnit*>& units, const Mesh& mesh);

}  // namespace archon
