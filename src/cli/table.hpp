#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace archon::cli {

/// Rows of text in aligned columns, two blanks apart; the last column is not padded.
class Table {
 public:
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }
  void print(std::ostream& out, const std::string& indent = "") const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// "[2, 3]", and "scalar" for no dims.
std::string show_shape(const std::vector<int64_t>& shape);

}  // namespace archon::cli
