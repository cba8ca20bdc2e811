#pragma once

#include <string>
#include <vector>

namespace archon::cli {

/// The name that `word` most likely stands for: one that it begins, or the one within few edits.
/// Empty when nothing is near.
std::string nearest_name(const std::string& word, const std::vector<std::string>& names);

/// " (did you mean PREFIXname?)", or nothing.
std::string suggestion(const std::string& word, const std::vector<std::string>& names,
                       const std::string& prefix = "");

}  // namespace archon::cli
