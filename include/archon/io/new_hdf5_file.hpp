#pragma once

#include <string>

#include "archon/io/hdf5.hpp"

namespace archon::h5 {

/// An HDF5 file that appears under its name only when it is whole: written beside it as PATH.tmp,
/// synced, then renamed by publish(). Without publish() the temporary file is removed, and what
/// was at PATH before stays.
class NewFile {
 public:
  /// As File::create. InputError when no file can be made there: no such folder, no permission,
  /// or something that is no regular file has the name.
  NewFile(const std::string& path, const std::string& schema, int schema_version);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  File& file() { return *file_; }
  /// Ends the writing; RuntimeFailure when the disk refuses.
  void publish();

 private:
  std::string path_;
  std::string temporary_;  // empty once published
  std::optional<File> file_;
};

}  // namespace archon::h5
