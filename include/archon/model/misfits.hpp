#pragma once

#include <map>
#include <string>
#include <vector>

namespace archon {

/// Everything that keeps saved weights from fitting a model, told at once.
class Misfits {
 public:
  /// `kind`: "missing", "unexpected", ...
  void add(const std::string& kind, std::string what) { found_[kind].push_back(std::move(what)); }
  /// InputError with the first of each kind.
  void throw_if_any(const std::string& folder) const;

 private:
  std::map<std::string, std::vector<std::string>> found_;
};

}  // namespace archon
