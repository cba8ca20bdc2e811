#pragma once

#include <optional>
#include <string>

#include "archon/comm/communicator.hpp"
#include "support/temporary_folder.hpp"

namespace archon::test {

/// A folder that all ranks of the test know; removed by the lowest.
class SharedFolder {
 public:
  explicit SharedFolder(const Communicator& world) : world_(world) {
    if (world.rank() == 0) owned_.emplace();
    path_ = world.broadcast(owned_ ? owned_->path() : "", 0);
  }
  ~SharedFolder() { world_.barrier(); }
  const std::string& path() const { return path_; }

 private:
  const Communicator& world_;
  std::optional<TemporaryFolder> owned_;
  std::string path_;
};

}  // namespace archon::test
