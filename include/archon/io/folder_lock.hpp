#pragma once

#include <string>

namespace archon {

/// Keeps other processes out of a folder that one writes into, until it goes or the process ends: a
/// flock(2) on FOLDER/.lock, which stays there and says who had it last. Where the file system
/// knows no locks, nothing is locked.
class FolderLock {
 public:
  FolderLock() = default;  ///< of no folder
  /// InputError that names who holds it.
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;

 private:
  int descriptor_ = -1;
};

}  // namespace archon
