#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace archon {

/// A file that appears under its name only when it is whole: written beside it as PATH.tmp,
/// synced, then renamed. Without publish() the temporary file is removed. Two processes that write
/// the same file do so one after the other. RuntimeFailure with the path and the system's reason when
/// the disk refuses.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  void write(const void* bytes, std::size_t count);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Everything is on the disk, still under the temporary name.
  void finish();
  /// Renames a finished file into place; sync the folder afterwards.
  void publish();

 private:
  void close() noexcept;

  std::string path_;
  std::string temporary_;
  int descriptor_ = -1;
};

}  // namespace archon
