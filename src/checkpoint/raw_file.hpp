#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "archon/base/checksum.hpp"
#include "manifest.hpp"

namespace archon {

/// A failure that a test asks for through the environment, ARCHON_FAIL_CHECKPOINT=KIND[:RANK[:NTH]]
/// (rank 0 and the first save if not said), to see what a checkpoint does about it: "open" when a
/// file is opened, "space" and "write" when bytes are written, "sync" when they are synced, "rename"
/// when the checkpoint is named.
class RequestedFailure {
 public:
  explicit RequestedFailure(int rank);
  void begin_save() { ++saves_; }
  /// RuntimeFailure with the reason if the failure that was asked for is of this kind.
  void check(const char* kind, const std::string& path) const;
  /// Of the kinds "space" and "write".
  void check_write(const std::string& path) const;

 private:
  std::string kind_;  // empty: none at this rank
  int64_t nth_ = 1, saves_ = 0;
};

/// A file that is gone through from front to back and summed on the way. Needs neither HDF5 nor
/// MPI, so that any thread may write one. RuntimeFailure with path and reason when the disk refuses.
class RawFile {
 public:
  enum class Mode { create, update };
  RawFile(std::string path, Mode mode, const RequestedFailure& requested);
  ~RawFile();
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  void write(const void* bytes, std::size_t count);
  /// Takes what is there already.
  void read(void* bytes, std::size_t count);
  /// Leaves a gap, whose space on the disk is taken all the same where the file system can; it is
  /// not part of the sum.
  void skip(int64_t bytes);
  /// Puts everything on the disk; what the manifest says about the file.
  ManifestFile finish();

 private:
  void start_writing();

  std::string path_;
  const RequestedFailure& requested_;
  int descriptor_;
  int64_t at_ = 0, started_ = 0;
  Xxh3Stream sum_;
};

/// What the manifest says about a file that something else wrote.
ManifestFile entry_of(const std::string& path);

}  // namespace archon
