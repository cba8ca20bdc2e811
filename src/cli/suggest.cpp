#include "suggest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace archon::cli {
namespace {

// Levenshtein distance: insertions, deletions, replacements.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

}  // namespace

std::string nearest_name(const std::string& word, const std::vector<std::string>& names) {
  constexpr std::size_t kShortestPrefix = 3;
  std::string best;
  // One edit in a short word; two, or a third of its letters, in a longer one.
  const std::size_t allowed = word.size() < 4 ? 1 : std::max<std::size_t>(2, word.size() / 3);
  std::size_t least = allowed + 1;
  for (const std::string& name : names) {
    const std::size_t distance = edit_distance(word, name);
    if (distance >= least) continue;
    least = distance;
    best = name;
  }
  if (!best.empty() || word.size() < kShortestPrefix) return best;
  const auto begun = std::find_if(names.begin(), names.end(), [&](const std::string& name) {
    return name.compare(0, word.size(), word) == 0;
  });
  return begun == names.end() ? "" : *begun;
}

std::string suggestion(const std::string& word, const std::vector<std::string>& names,
                       const std::string& prefix) {
  const std::string name = nearest_name(word, names);
  return name.empty() ? "" : fmt::format(" (did you mean {}{}?)", prefix, name);
}

}  // namespace archon::cli
