#pragma once

#include <map>
#include <string>
#include <vector>

#include "archon/io/hdf5_layout.hpp"
#include "owned_pieces.hpp"

namespace archon {

/// One tensor of a checkpoint and the shards that hold it, in order of rank.
struct IndexedTensor {
  struct Source {
    int rank;
    std::vector<Box> boxes;
  };
  std::vector<int64_t> shape;
  std::vector<Source> sources;
};

/// By path.
using CheckpointIndex = std::map<std::string, IndexedTensor>;

/// What all ranks save, from the pieces of each: on world rank 0, empty on the others. Collective.
CheckpointIndex gather_index(const std::vector<OwnedPiece>& pieces, const Communicator& world);

/// A rectangle of a tensor of this shape; RuntimeFailure if in its own dims it is none.
h5::Slab slab_of(const Box& box, const std::vector<int64_t>& shape);

/// Begins an index.h5: its attributes and /trainer/state.
void write_run_state(h5::File& file, int64_t step, const char* layout, const std::string& trainer);

/// The index.h5 of a checkpoint in shards, as bytes.
std::string make_index(const CheckpointIndex& index, int64_t step, const std::string& trainer);

}  // namespace archon
