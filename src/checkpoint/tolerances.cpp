#include <charconv>
#include <cmath>
#include <sstream>

#include "archon/base/error.hpp"
#include "archon/checkpoint/compare.hpp"
#include "archon/io/files.hpp"

namespace archon {
namespace {

/// The words of a line before its comment.
std::vector<std::string> words_of(const std::string& line) {
  std::istringstream text(line);
  std::vector<std::string> words;
  for (std::string word; text >> word && !word.starts_with('#');) words.push_back(word);
  return words;
}

double parse_bound(const std::string& word, const char* name, const std::string& place) {
  double value = 0;
  const char* const end = word.data() + word.size();
  const auto [rest, error] = std::from_chars(word.data(), end, value);
  const bool is_number = error == std::errc() && rest == end && std::isfinite(value);
  ARCHON_VALIDATE(is_number && value >= 0, "{}: {} \"{}\" must be a number, 0 or larger", place,
                  name, word);
  return value;
}

}  // namespace

std::vector<Tolerance> read_tolerances(const std::string& path) {
  std::istringstream text(read_text_file(path));
  std::vector<Tolerance> tolerances;
  int number = 0;
  for (std::string line; std::getline(text, line);) {
    const std::string place = fmt::format("{}, line {}", path, ++number);
    const std::vector<std::string> words = words_of(line);
    if (words.empty()) continue;
    ARCHON_VALIDATE(words.size() == 2 || words.size() == 3,
                    "{}: \"{}\" has {} words; a line is PATTERN rtol [atol], as in */gradients/* "
                    "1e-4",
                    place, line, words.size());
    Tolerance& added = tolerances.emplace_back();
    added = {words[0], parse_bound(words[1], "rtol", place)};
    if (words.size() == 3) added.atol = parse_bound(words[2], "atol", place);
  }
  return tolerances;
}

}  // namespace archon
