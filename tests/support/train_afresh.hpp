#pragma once

#include <filesystem>

#include "archon/engine/run.hpp"
#include "support/mpi_main.hpp"

namespace archon::test {

/// run_train in a folder without a run: one that a signal ended, with its tests, left a checkpoint
/// and would be gone on with.
inline void train_afresh(const TrainOptions& options) {
  if (test_environment().world_rank() == 0) std::filesystem::remove_all(options.output);
  MPI_Barrier(MPI_COMM_WORLD);
  run_train(options, test_environment());
}

}  // namespace archon::test
