#include "archon/engine/data_feed.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

#include "archon/base/error.hpp"
#include "archon/comm/agreement.hpp"
#include "archon/io/json.hpp"

namespace archon {
namespace fs = std::filesystem;
namespace {

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".h5") && !name.starts_with('.') && entry.is_regular_file())
      names.insert(name);
  }
  return names;
}

}  // namespace

DataFeed::DataFeed(const std::string& path, const Communicator& world)
    : path_(path), world_(world) {
  std::string kind;
  check_on_rank_zero(world, [&] {
    std::error_code error;
    const auto type = fs::status(path, error).type();
    ARCHON_VALIDATE(type != fs::file_type::none && type != fs::file_type::not_found,
                    "--data {}: {}; give an HDF5 file, or a folder of them", path, error.message());
    kind = type == fs::file_type::directory ? "folder" : "file";
  });
  // Other hosts may see a shared file system a little later: rank 0 decides for all.
  is_folder_ = world.broadcast(kind, 0) == "folder";
}

std::optional<std::string> DataFeed::next(const std::vector<std::string>& consumed) const {
  std::string found;
  check_on_rank_zero(world_, [&] {
    try {
      const auto names =
          is_folder_ ? names_in(path_) : std::set{fs::path(path_).filename().string()};
      const std::set<std::string> used(consumed.begin(), consumed.end());
      const auto first = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
        return !used.contains(name);
      });
      if (first != names.end()) found = *first;
      ARCHON_VALIDATE(is_utf8(found), "--data {}: the name of {} must be UTF-8; rename it", path_,
                      found);
    } catch (const fs::filesystem_error& error) {
      throw_input_error(fmt::format("cannot list --data {}: {}", path_, error.code().message()));
    }
  });
  found = world_.broadcast(found, 0);
  if (found.empty()) return std::nullopt;
  return found;
}

std::string DataFeed::path(const std::string& name) const {
  return is_folder_ ? path_ + "/" + name : path_;
}

}  // namespace archon
