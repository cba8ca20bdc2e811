#include "archon/checkpoint/checkpoint_folder.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "archon/base/error.hpp"
#include "archon/io/files.hpp"

namespace archon {

std::string checkpoint_name(int64_t step) { return fmt::format("step-{:08}", step); }

void publish_checkpoint(const std::string& written, const std::string& folder, int64_t step) {
  const std::string name = checkpoint_name(step), path = folder + "/" + name;
  ARCHON_ENSURE(std::rename(written.c_str(), path.c_str()) == 0, "cannot rename {} to {}: {}",
                written, path, std::strerror(errno));
  sync_path(folder);
  write_text_file(folder + "/latest", name + "\n");
}

}  // namespace archon
