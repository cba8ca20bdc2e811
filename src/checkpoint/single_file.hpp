#pragma once

#include <string>
#include <vector>

#include "index_file.hpp"
#include "raw_file.hpp"

namespace archon {

/// Writes the index.h5 of a checkpoint in a single file at `path`: rank 0 lays it out and takes the
/// space, all ranks write their pieces together, rank 0 sums what arrived. `index`, `step` and
/// `trainer` are rank 0's.
///
/// Collective. Returns why this rank failed, empty if it did not; `written` is for rank 0 when no
/// rank failed.
std::string write_single_file(const std::string& path, const CheckpointIndex& index,
                              const std::vector<OwnedPiece>& pieces, int64_t step,
                              const std::string& trainer, const Communicator& world,
                              const SaveControl& control, ManifestFile& written);

}  // namespace archon
