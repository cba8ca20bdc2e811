#pragma once

#include "archon/engine/options.hpp"
#include "archon/engine/training_data.hpp"
#include "archon/io/json_fwd.hpp"
#include "archon/mesh/mesh.hpp"

namespace archon {

/// How far a run has come.
struct TrainerPosition {
  int64_t step = 0;              ///< the last one done
  int64_t skipped_in_a_row = 0;  ///< steps whose norm was not finite, up to this one
};

/// What a checkpoint tells beside tensors, the same on every rank: position, configuration, mesh,
/// versions, and the state of every rank's random numbers. `sequences` are those of the data set.
/// Collective over the mesh.
Json trainer_state(const TrainerPosition& position, const DataPosition& data,
                   const TrainOptions& options, int64_t sequences, const Mesh& mesh);

/// Whether the run that saved a state was given this --resume, which the same command has again.
bool began_from(const Json& state, const std::string& resume);

/// Where in its data a run was; that of an Archon that knew no folders at the start of its one file.
DataPosition saved_data_position(const Json& state);

/// Takes a state up again; random numbers only on the mesh that it was saved on. Warns of every
/// option on which the rest of the run depends and which is another one now.
TrainerPosition restore_trainer_state(const Json& state, const TrainOptions& options,
                                      int64_t sequences, const Mesh& mesh);

}  // namespace archon
