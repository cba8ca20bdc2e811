#pragma once

#include <string>

#include "archon/io/hdf5.hpp"

namespace archon::h5 {

/// An HDF5 file that appears under its name only when it is whole: written beside it as PATH.PID.tmp,
/// synced, then renamed by publish(). Without publish() the temporary file is removed, and what
/// was at PATH before stays.
class NewFile {
 public:
  /// As File::create. InputError when no file can be made there: no such folder, no permission,
  /// or something that is no regular file has the name.
  NewFile(const std::string& path, const std::string& schema, int schema_version);
  /// Begins with all that is in the file `source`, which may be at PATH itself.
  static NewFile copy_of(const std::string& source, const std::string& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  File& file() { return *file_; }
  /// Ends the writing; RuntimeFailure when the disk refuses.
  void publish();

 private:
  explicit NewFile(const std::string& path);
  NewFile(const std::string& path, const std::string& source);

  std::string path_;
  std::string temporary_;  // empty once published
  std::optional<File> file_;
};

}  // namespace archon::h5
