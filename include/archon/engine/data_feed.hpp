#pragma once

#include <optional>
#include <string>
#include <vector>

#include "archon/comm/communicator.hpp"

namespace archon {

/// The files that --data names: one, or the *.h5 of a folder in the order of their names, with
/// those that appear there later. Names that begin with a dot are left alone; who adds a file
/// writes it under another name and renames it.
class DataFeed {
 public:
  /// InputError where neither a file nor a folder is. Collective over `world`.
  DataFeed(const std::string& path, const Communicator& world);

  bool is_folder() const { return is_folder_; }
  /// Name of the first file that is none of `consumed`, if there is one now; the same on all ranks.
  /// Collective.
  std::optional<std::string> next(const std::vector<std::string>& consumed) const;
  std::string path(const std::string& name) const;

 private:
  std::string path_;
  const Communicator& world_;
  bool is_folder_ = false;
};

}  // namespace archon
