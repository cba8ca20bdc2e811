#pragma once

#include <fnmatch.h>

#include <string>

namespace archon {

/// Whether a glob pattern matches a dataset's whole path; "*" matches "/" too, and the path's
/// leading "/" may be left out of the pattern.
inline bool matches_path(const std::string& pattern, const std::string& path) {
  const char* bare = path.c_str() + (path.starts_with('/') ? 1 : 0);
  return fnmatch(pattern.c_str(), path.c_str(), 0) == 0 || fnmatch(pattern.c_str(), bare, 0) == 0;
}

}  // namespace archon
