#pragma once

#include <string>

#include "archon/io/json.hpp"
#include "archon/mesh/mesh.hpp"
#include "archon/model/state_dict.hpp"
#include "archon/optim/optimizer.hpp"

namespace archon {

/// Fills an allocated model's masters, and the optimizer's state and number of steps, from a
/// checkpoint that was saved on any mesh; `optimizer` may be null (only weights are read). Every
/// rank reads the blocks that hold what it owns and compares them with their checksums. Returns
/// what the trainer had saved beside.
///
/// Collective over the mesh. InputError, the same on every rank, that names file and dataset when
/// something is missing, damaged, or does not fit the model or optimizer; masters and state are
/// then undefined.
Json load_checkpoint(const std::string& folder, Model& model, Optimizer* optimizer,
                     const StateDictAdapter& adapter, const Mesh& mesh);

}  // namespace archon
