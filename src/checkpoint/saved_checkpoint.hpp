#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "archon/io/json_fwd.hpp"
#include "block_copy.hpp"
#include "block_file.hpp"
#include "owned_pieces.hpp"

namespace archon {

/// A complete checkpoint, opened to be read by any rank of any mesh. Everything that is wrong with
/// it is an InputError that names file and dataset.
class SavedCheckpoint {
 public:
  /// Checks manifest, sizes, and the sums of all small files.
  explicit SavedCheckpoint(std::string folder);

  const std::string& folder() const { return folder_; }
  int64_t step() const { return manifest_.step; }
  int64_t bytes() const;
  /// "shards" or "single".
  const char* layout() const { return shards() > 0 ? "shards" : "single"; }
  int64_t shards() const;
  /// Paths and shapes of all tensors below /parameters and /optimizer.
  const std::vector<h5::DatasetInfo>& tensors() const { return tensors_; }
  /// What the trainer saved.
  Json trainer() const;
  /// Fills the pieces' elements; each is compared with its checksum. Holds one block in memory.
  void read(const std::vector<OwnedPiece>& pieces);

 private:
  void check_small_files() const;
  void check_index() const;
  /// By file.
  std::map<std::string, std::vector<BlockCopy>> plan(const std::vector<OwnedPiece>& pieces) const;
  /// Of a file that HDF5 can be given.
  std::string checked_path(const std::string& file) const;
  const BlockFile& open(const std::string& file);

  std::string folder_;
  Manifest manifest_;
  std::unique_ptr<h5::File> index_;
  std::vector<h5::DatasetInfo> tensors_;
  std::map<std::string, BlockFile> files_;  // some that were read last
};

}  // namespace archon
