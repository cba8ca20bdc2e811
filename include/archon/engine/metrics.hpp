#pragma once

#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "archon/io/hdf5.hpp"

namespace archon {

/// One row of the metrics: names and values in the order in which they are printed.
using MetricsRow = std::vector<std::pair<std::string, double>>;

/// Writes one row per step to OUTPUT/metrics.jsonl (an object a line) and OUTPUT/metrics.h5 (a
/// dataset a column). A value that is not finite becomes null in the lines and NaN in the datasets;
/// so does one whose column other rows have, with -1 in datasets of whole numbers.
class MetricsWriter {
 public:
  /// Goes on after step `after_step` (0 = from the beginning): lines of later steps, and what was
  /// not written to its end, are cut off the lines; the datasets are written anew from the lines.
  explicit MetricsWriter(const std::string& folder, int64_t after_step = 0);

  void write(const MetricsRow& row);
  /// Puts the lines on the disk.
  void sync() const;
  /// Of the last row; 0 where there is none.
  int64_t last_step() const { return last_step_; }

 private:
  void append(const std::vector<MetricsRow>& rows);
  void rebuild();

  std::string path_;  // of the lines
  int64_t last_step_ = 0;
  std::ofstream lines_;
  h5::File file_;
  std::set<std::string> columns_;
  std::size_t rows_ = 0;
};

}  // namespace archon
