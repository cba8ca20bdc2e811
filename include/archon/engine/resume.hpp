#pragma once

#include <string>
#include <vector>

#include "archon/checkpoint/checkpoint_folder.hpp"
#include "archon/engine/loaded_model.hpp"
#include "archon/engine/options.hpp"
#include "archon/io/folder_lock.hpp"
#include "archon/io/json.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

struct RunFolder {
  /// The first is to be taken, the others stand in for a damaged one. Empty: the run begins afresh.
  std::vector<CheckpointEntry> checkpoints;
  FolderLock lock;  ///< on world rank 0
};

/// Makes the output folder, keeps other runs out of it, and finds the checkpoints that --resume asks
/// for. InputError for an output folder that holds something else, is in use or cannot be written
/// to, and for a checkpoint of another model than --model; what is in it is untouched then.
/// Collective, the same on every rank.
RunFolder prepare_output(const TrainOptions& options, const Mesh& mesh);

struct LoadedCheckpoint {
  std::string folder;
  Json trainer;  ///< as given to CheckpointWriter::save
};

/// Loads the first of the candidates that is whole, warning of every one that is not; InputError
/// when none is. Collective over the mesh.
LoadedCheckpoint load_newest(const std::vector<CheckpointEntry>& candidates,
                             const LoadedModel& loaded, Optimizer& optimizer, const Mesh& mesh);

}  // namespace archon
