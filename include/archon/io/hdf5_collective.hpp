#pragma once

#include <string>
#include <vector>

#include "archon/comm/communicator.hpp"
#include "archon/io/hdf5_layout.hpp"

namespace archon::h5 {

/// An existing HDF5 file whose datasets all ranks of a group write together, through MPI-IO. Every
/// call is collective; a rank whose call throws RuntimeFailure has taken part, so it must go on to
/// the calls of the others.
class CollectiveFile {
 public:
  CollectiveFile(const std::string& path, const Communicator& group);

  /// Writes the elements of this rank's rectangles (perhaps none) of a float32 dataset. They lie
  /// one behind the other in row-major order of the whole dataset, as in `elements`.
  void write(const std::string& dataset, const std::vector<Slab>& slabs, const float* elements);
  /// The system has everything that any rank wrote; nothing may be called after it.
  void close();

 private:
  std::string path_;
  Handle file_;
};

}  // namespace archon::h5
