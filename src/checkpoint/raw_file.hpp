#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "archon/base/checksum.hpp"
#include "manifest.hpp"

namespace archon {

/// A failure that a test asks for through the environment, ARCHON_FAIL_CHECKPOINT=KIND[:RANK[:NTH]]
/// (rank 0 and the first save if not said), to see what a checkpoint does about it: "space" and
/// "write" when bytes are written, "sync" when they are synced, "rename" when the checkpoint is
/// named.
class RequestedFailure {
 public:
  explicit RequestedFailure(int rank);
  void begin_save() { ++saves_; }
  /// RuntimeFailure with the reason if the failure that was asked for is of this kind.
  void check(const char* kind, const std::string& path) const;

 private:
  std::string kind_;  // empty: none at this rank
  int64_t nth_ = 1, saves_ = 0;
};

/// A new file, written from front to back and summed on the way. Needs neither HDF5 nor MPI, so
/// that any thread may write one. RuntimeFailure with path and reason when the disk refuses.
class RawFile {
 public:
  RawFile(std::string path, const RequestedFailure& requested);
  ~RawFile();
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  void write(const void* bytes, std::size_t count);
  /// Puts everything on the disk; what the manifest says about the file.
  ManifestFile finish();

 private:
  std::string path_;
  const RequestedFailure& requested_;
  int descriptor_;
  int64_t written_ = 0, started_ = 0;
  Xxh3Stream sum_;
};

}  // namespace archon
