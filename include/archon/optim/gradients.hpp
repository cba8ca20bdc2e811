#pragma once

#include <vector>

#include "archon/mesh/mesh.hpp"
#include "archon/parallel/parameter.hpp"

namespace archon {

/// Sums every parameter's gradient over the ranks that hold parts of it: the shard group (dp and
/// cp), and tp as well for replicated parameters. Afterwards all ranks that hold a parameter hold
/// the same bits of its gradient. Collective over the mesh.
void reduce_gradients(const std::vector<Parameter*>& parameters, const Mesh& mesh);

/// 2-norm of all (reduced) gradients: tp-sharded ones summed over tp, replicated ones counted
/// once. Accumulates in float64. The same on every rank; collective over tp.
double gradient_norm(const std::vector<Parameter*>& parameters, const Mesh& mesh);

}  // namespace archon
