#pragma once

#include <set>
#include <string>

#include "archon/model/state_dict.hpp"
#include "archon/optim/optimizer.hpp"
#include "saved_checkpoint.hpp"

namespace archon {

/// What a checkpoint holds of an optimizer for each weight: "exp_avg", "exp_avg_sq".
std::set<std::string> kinds_of_state(const SavedCheckpoint& saved);

/// InputError unless a checkpoint holds just the tensors of this model and optimizer, in their
/// shapes. Without an optimizer, state may be there. The model needs no memory.
void check_fit(const SavedCheckpoint& saved, const Model& model, Optimizer* optimizer,
               const StateDictAdapter& adapter);

}  // namespace archon
