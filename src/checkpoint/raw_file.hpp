#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "archon/base/checksum.hpp"
#include "manifest.hpp"

namespace archon {

/// Whether a save may go on: not when its run has failed, which must not wait for the disk, and not
/// where a test asks for a failure through the environment, ARCHON_FAIL_CHECKPOINT=KIND[:RANK[:NTH]]
/// (rank 0 and the first save if not said): "open" when a file is opened, "space" and "write" when
/// bytes are written, "sync" when they are synced, "rename" when the checkpoint is named; "stall" is
/// a disk that takes no byte as long as the save goes on.
class SaveControl {
 public:
  explicit SaveControl(int rank);
  void begin_save() { ++saves_; }
  /// From any thread: what comes next of the save under way fails.
  void abandon() { abandoned_ = true; }
  /// RuntimeFailure with the reason if the save was abandoned or the failure that was asked for is of
  /// this kind.
  void check(const char* kind, const std::string& path) const;
  /// Of the kinds "space", "write" and "stall".
  void check_write(const std::string& path) const;

 private:
  bool asked_for(const char* kind) const { return kind_ == kind && saves_ == nth_; }

  std::atomic<bool> abandoned_{false};
  std::string kind_;  // empty: none at this rank
  int64_t nth_ = 1, saves_ = 0;
};

/// A file that is gone through from front to back and summed on the way. Needs neither HDF5 nor
/// MPI, so that any thread may write one. RuntimeFailure with path and reason when the disk refuses.
class RawFile {
 public:
  enum class Mode { create, update };
  RawFile(std::string path, Mode mode, const SaveControl& control);
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
  const SaveControl& control_;
  int descriptor_;
  int64_t at_ = 0, started_ = 0;
  Xxh3Stream sum_;
};

/// What the manifest says about a file that something else wrote.
ManifestFile entry_of(const std::string& path);

}  // namespace archon
