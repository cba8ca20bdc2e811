#pragma once

#include <string>
#include <vector>

#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/options.hpp"
#include "archon/io/json.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

/// Makes the output folder, and finds the checkpoints that --resume asks for: the first is to be
/// taken, the others stand in for a damaged one. Empty: the run begins afresh. InputError for an
/// output folder that holds something else, and for a checkpoint of another model than --model; the
/// folder is untouched then. Collective, the same on every rank.
std::vector<CheckpointEntry> prepare_output(const TrainOptions& options, const Mesh& mesh);

struct LoadedCheckpoint {
  std::string folder;
  Json trainer;  ///< as given to CheckpointWriter::save
};

/// Loads the first of the candidates that is whole, warning of every one that is not; InputError
/// when none is. Collective over the mesh.
LoadedCheckpoint load_newest(const std::vector<CheckpointEntry>& candidates,
                             const LoadedModel& loaded, Optimizer& optimizer, const Mesh& mesh);

}  // namespace archon
